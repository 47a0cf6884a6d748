"""A local function host with the semantics of Azure Functions, without Core Tools."""
