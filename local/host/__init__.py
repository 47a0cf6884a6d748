"""A function host for a developer's machine: the semantics of Azure Functions without Core Tools."""
