"""Facts about accelerators, each with its source: bytes and FLOP/s of one chip; FLOP/s are dense, in bfloat16."""

from dataclasses import dataclass, replace

GIB = 2**30


@dataclass(frozen=True)
class TPU:
    """A TPU chip.

    memory: bytes that a program may use, as libtpu 0.0.52 reports when a program exceeds them; the rest is reserved.
    peak: FLOP/s. bandwidth: of the memory, bytes/s. link: to all neighbors, both ways together, bytes/s.
    clock: Hz; the peak / the FLOPs of a cycle. None where it is not known.
    axes: of the topology. per_host: chips of one machine in a slice of several machines. options: of the topology, for
    libtpu.
    """

    title: str
    memory: int
    peak: float
    bandwidth: float
    link: float
    clock: float | None
    axes: int
    per_host: int
    source: str
    options: tuple[tuple[str, str], ...] = ()
    kind: str = "tpu"


@dataclass(frozen=True)
class GPU:
    """A GPU. total: bytes of its memory. link: NVLink, both ways together, bytes/s; others as in `TPU`.

    multiprocessors, shared, cache, gigahertz, capability: what XLA's compiler asks for; `shared` is the shared memory
    of a multiprocessor and `cache` the L2 cache, bytes.
    """

    title: str
    total: int
    peak: float
    bandwidth: float
    link: float
    multiprocessors: int
    cores: int  # of a multiprocessor, float32
    shared: int
    cache: int
    gigahertz: float
    capability: tuple[int, int]
    accelerated: bool  # "a": with the instructions that only this capability has, such as sm_90a
    source: str
    clock: float | None = None  # the compiler counts no cycles
    per_host: int = 8
    kind: str = "gpu"

    @property
    def memory(self) -> int:
        """Bytes that a program may use: jax takes three quarters, by its default XLA_PYTHON_CLIENT_MEM_FRACTION."""
        return int(0.75 * self.total)

    def description(self) -> str:
        """Returns what XLA's compiler takes instead of a GPU: a GpuTargetConfigProto as text."""
        major, minor = self.capability
        feature = "ACCELERATED_FEATURES" if self.accelerated else "NONE"
        limits = {
            **{"threads_per_block_limit": 1024, "threads_per_warp": 32, "threads_per_core_limit": 2048},
            **{"block_dim_limit_x": 2**31 - 1, "block_dim_limit_y": 65535, "block_dim_limit_z": 65535},
            **{"thread_dim_limit_x": 1024, "thread_dim_limit_y": 1024, "thread_dim_limit_z": 64},
            **{"registers_per_core_limit": 65536, "registers_per_block_limit": 65536},
            **{"shared_memory_per_block": 49152, "shared_memory_per_block_optin": self.shared - 1024},
            **{"shared_memory_per_core": self.shared, "core_count": self.multiprocessors, "fpus_per_core": self.cores},
            **{"memory_bandwidth": int(self.bandwidth), "l2_cache_size": self.cache},
            **{"clock_rate_ghz": self.gigahertz, "device_memory_size": self.total, "device_address_bits": 64},
            **{"pcie_bandwidth": 32 * GIB, "ecc_enabled": "true"},
        }
        words = {
            **{"name": self.title, "device_vendor": "NVIDIA Corporation"},
            "platform_version": f"Compute Capability {major}.{minor}{'a' if self.accelerated else ''}",
            **{"driver_version": "13.0.0", "runtime_version": "13.0.0", "compile_time_toolkit_version": "13.0.0"},
            "dnn_version": "9.20.0",
        }
        capability = f"cuda_compute_capability {{ major: {major} minor: {minor} feature_extension: {feature} }}"
        lines = [f"{name}: {value}" for name, value in limits.items()]
        lines += [f'{name}: "{value}"' for name, value in words.items()]
        info = "\n".join(lines)
        return (
            f"gpu_device_info {{\n{info}\n{capability}\n}}\n"
            'platform_name: "CUDA"\ndnn_version_info { major: 9 minor: 20 patch: 0 }\n'
            f'device_description_str: "{self.title}"\n'
        )


_CLOUD = "docs.cloud.google.com/tpu/docs"
_XLA = "XLA, xla/backends/gpu/target_config/specs"
_H100 = GPU(
    *("NVIDIA H100 80GB HBM3", 84_942_979_072, 989e12, 3352e9, 900e9, 132, 128, 233_472, 50 * 2**20, 1.98),
    *((9, 0), True),
    f"NVIDIA H100 datasheet, SXM; {_XLA}/h100_sxm.txtpb",
)
# A cycle of a TPU of 128 x 128 matrix units is 2 x 128 x 128 FLOPs in each of them.
_UNIT = 2 * 128 * 128

CHIPS: dict[str, TPU | GPU] = {
    "v4": TPU(
        *("TPU v4", int(30.75 * GIB), 275e12, 1200e9, 300e9, 275e12 / (8 * _UNIT), 3, 4),
        f"{_CLOUD}/v4",
        options=(("chip_config_name", "megacore"),),  # one device for the two cores of a chip, as Cloud TPU has it
    ),
    "v5e": TPU("TPU v5e", int(15.75 * GIB), 197e12, 819e9, 400e9, 197e12 / (4 * _UNIT), 2, 4, f"{_CLOUD}/v5e"),
    "v5p": TPU(
        *("TPU v5p", int(95.73 * GIB), 459e12, 2765e9, 1200e9, 459e12 / (8 * _UNIT), 3, 4),
        f"{_CLOUD}/v5p",
    ),
    # Its peak / two matrix units of 256 x 256 would give 3.5 GHz, which no source confirms: the clock is left unknown.
    "v6e": TPU("TPU v6e", int(31.24 * GIB), 918e12, 1638e9, 800e9, None, 2, 4, f"{_CLOUD}/v6e"),
    "a100": GPU(
        *("NVIDIA A100-SXM4-80GB", 85_100_068_864, 312e12, 2039e9, 600e9, 108, 64, 167_936, 40 * 2**20, 1.41),
        *((8, 0), False),
        f"NVIDIA A100 datasheet; {_XLA}/a100_sxm_80.txtpb",
    ),
    "h100": _H100,
    "h200": replace(
        _H100,
        title="NVIDIA H200 141GB HBM3e",
        total=151_397_597_184,
        bandwidth=4800e9,
        source=f"NVIDIA H200 datasheet; {_XLA}/h200.txtpb",
    ),
}

# How jax calls the chips: the beginnings of `device_kind`.
_KINDS = {
    **{"TPU v4": "v4", "TPU v5 lite": "v5e", "TPU v5e": "v5e", "TPU v5p": "v5p", "TPU v6": "v6e"},
    **{"NVIDIA A100-SXM": "a100", "NVIDIA H100 80GB HBM3": "h100", "NVIDIA H200": "h200"},
}


def peak(device_kind: str) -> float | None:
    """Returns the dense bfloat16 FLOP/s of a device that jax calls so, or None if it is not in `CHIPS`."""
    return next((CHIPS[name].peak for kind, name in _KINDS.items() if device_kind.startswith(kind)), None)
