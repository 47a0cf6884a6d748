from tests.notify.conftest import herald, teams

__all__ = ["herald", "teams"]
