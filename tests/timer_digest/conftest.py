from tests.notify.conftest import herald, teams, timed

__all__ = ["herald", "teams", "timed"]
