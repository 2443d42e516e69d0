"""The compile gate of the CUDA kernels; scripts/compile_gate.sh says what it is and sets it up.

The kernels' numbers (-D options) are Rust's: tests/cuda_emulation.rs writes them to tests/golden/kernel_options.txt with UPDATE_GOLDEN=1
and otherwise checks that the file is up to date, so nothing is stated twice.
"""

import ctypes
import pathlib
import re
import subprocess
import sys
import sysconfig

ROOT = pathlib.Path(__file__).resolve().parent.parent
KERNELS = ROOT / "kernels"
OUT = ROOT / "target" / "compile-gate"
# Architecture: which families of entry points it is for, and the shared memory it gives one block.
ARCHITECTURES = {
    "sm_80": (["BLOCK", "FEATURES"], 163 * 1024),
    "sm_89": (["BLOCK", "FEATURES"], 99 * 1024),
    "sm_90": (["BLOCK", "CLUSTER", "FEATURES"], 227 * 1024),
}
# The budget: one block of 256 threads has a multiprocessor to itself, so 255 registers a thread is what the hardware gives; past
# 248 the next change would spill. No spill, no stack, and no more shared memory than the architecture's.
REGISTERS = 248
SPILL_BYTES = 0
STACK_BYTES = 0


def wheel_folders() -> tuple[pathlib.Path, pathlib.Path]:
    """CUDA 13 (NVRTC, ptxas) and CUDA 12 (NVRTC alone)."""
    site = pathlib.Path(sysconfig.get_paths()["purelib"]) / "nvidia"
    found, old = sorted(site.glob("cu*/bin/ptxas")), site / "cuda_nvrtc"
    if not found or not old.is_dir():
        sys.exit(f"compile gate: no ptxas or no NVRTC of CUDA 12 under {site}; remove target/compile-gate and start again")
    return found[-1].parent.parent, old


def options() -> dict[str, list[str]]:
    """Lines `FAMILY option option ...` as Rust wrote them; ALL holds for every family."""
    lines = (ROOT / "tests" / "golden" / "kernel_options.txt").read_text().splitlines()
    return {line.split()[0]: line.split()[1:] for line in lines if line and not line.startswith("#")}


class Nvrtc:
    """The few calls of NVRTC that are needed."""

    def __init__(self, cuda: pathlib.Path):
        library = sorted((cuda / "lib").glob("libnvrtc.so.*"))[0]
        self.name = library.name.removeprefix("libnvrtc.so.")
        # NVRTC looks its built-ins up by name: have them loaded already.
        for builtins in sorted((cuda / "lib").glob("libnvrtc-builtins.so.*")):
            ctypes.CDLL(str(builtins), mode=ctypes.RTLD_GLOBAL)
        self.library = ctypes.CDLL(str(library))

    def check(self, code: int, what: str, program=None) -> None:
        if code == 0:
            return
        log = self.text(program, "ProgramLog") if program else ""
        sys.exit(f"compile gate: {what} failed with code {code}\n{log}")

    def text(self, program, what: str) -> str:
        size = ctypes.c_size_t()
        getattr(self.library, f"nvrtcGet{what}Size")(program, ctypes.byref(size))
        buffer = ctypes.create_string_buffer(size.value)
        getattr(self.library, f"nvrtcGet{what}")(program, buffer)
        return buffer.value.decode()

    def compile(self, source: str, headers: dict[str, str], flags: list[str]) -> tuple[str, str]:
        """PTX (for a virtual architecture) and the log."""
        program = ctypes.c_void_p()
        names = (ctypes.c_char_p * len(headers))(*[name.encode() for name in headers])
        texts = (ctypes.c_char_p * len(headers))(*[text.encode() for text in headers.values()])
        made = self.library.nvrtcCreateProgram(
            ctypes.byref(program), source.encode(), b"blobnet.cu", len(headers), texts, names
        )
        self.check(made, "nvrtcCreateProgram")
        array = (ctypes.c_char_p * len(flags))(*[flag.encode() for flag in flags])
        done = self.library.nvrtcCompileProgram(program, len(flags), array)
        self.check(done, f"NVRTC with {' '.join(flags)}", program)
        log, ptx = self.text(program, "ProgramLog"), self.text(program, "PTX")
        self.library.nvrtcDestroyProgram(ctypes.byref(program))
        return ptx, log


def assemble(ptxas: pathlib.Path, ptx: pathlib.Path, architecture: str) -> str:
    cubin = ptx.with_suffix(".cubin")
    command = [str(ptxas), "-v", "-arch", architecture, str(ptx), "-o", str(cubin)]
    run = subprocess.run(command, capture_output=True, text=True)
    if run.returncode != 0:
        sys.exit(f"compile gate: {' '.join(command)}\n{run.stdout}{run.stderr}")
    return run.stdout + run.stderr


def entries(report: str) -> dict[str, dict[str, int]]:
    """Registers, stack and spills of each entry point, from what `ptxas -v` says."""
    found: dict[str, dict[str, int]] = {}
    name = None
    for line in report.splitlines():
        if match := re.search(r"Compiling entry function '(\w+)'", line):
            name = match[1]
            found[name] = {}
        elif name and (match := re.search(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", line)):
            found[name] |= {"stack": int(match[1]), "spills": int(match[2]) + int(match[3])}
        elif name and (match := re.search(r"Used (\d+) registers", line)):
            found[name] |= {"registers": int(match[1])}
    return found


def shared_bytes(entry: str, flags: list[str]) -> int:
    family, rows = re.fullmatch(r"blobnet_(\w+?)_?(\d*)", entry).groups()
    wanted = f"-DBLOBNET_SHARED_{family.upper()}_{rows}=" if rows else "-DBLOBNET_SHARED_FEATURES="
    return next((int(flag.removeprefix(wanted)) for flag in flags if flag.startswith(wanted)), 0)


class Gate:
    """The table, and what in it is over the budget."""

    def __init__(self):
        self.bad: list[str] = []
        print(f"budget: {REGISTERS} registers, {STACK_BYTES} bytes of stack, {SPILL_BYTES} bytes of spills")
        print(f"{'cuda':4} {'arch':8} {'entry point':21} {'registers':>9} {'shared':>8} {'of':>8} {'stack':>6} {'spills':>6}")

    def take(self, cuda: str, architecture: str, report: str, flags: list[str], wanted: set[str]) -> None:
        """What ptxas says of one architecture."""
        shared_limit = ARCHITECTURES[architecture][1]
        found, where = entries(report), f"CUDA {cuda}, {architecture}"
        if set(found) != wanted:
            self.bad.append(f"{where}: found {sorted(found)}, wanted {sorted(wanted)}")
        for entry, numbers in sorted(found.items()):
            registers, stack, spills = (numbers.get(key, 10**6) for key in ("registers", "stack", "spills"))
            shared = shared_bytes(entry, flags)
            over = registers > REGISTERS or stack > STACK_BYTES or spills > SPILL_BYTES or shared > shared_limit
            if over:
                self.bad.append(f"{where}: {entry}")
            mark = "  OVER BUDGET" if over else ""
            print(f"{cuda:4} {architecture:8} {entry:21} {registers:9} {shared:8} {shared_limit:8} {stack:6} {spills:6}{mark}")


def main() -> None:
    new, old = wheel_folders()
    lines = options()
    source = (KERNELS / "blobnet.cu").read_text()
    headers = {path.name: path.read_text() for path in sorted(KERNELS.glob("*.cuh"))}
    declared = re.findall(r"^(?:\w+_)?KERNEL void (\w+)", source, re.M)
    OUT.mkdir(parents=True, exist_ok=True)
    gate = Gate()
    nvrtc, nvrtc_12 = Nvrtc(new), Nvrtc(old)
    for architecture, (families, _) in ARCHITECTURES.items():
        flags = lines["ALL"] + [flag for family in families for flag in lines[family]]
        wanted = {name for name in declared if any(family.lower() in name for family in families)}
        ptx = OUT / f"blobnet.{architecture}.ptx"
        virtual = f"--gpu-architecture={architecture.replace('sm_', 'compute_')}"
        ptx.write_text(nvrtc.compile(source, headers, [virtual, *flags])[0])
        gate.take(nvrtc.name, architecture, assemble(new / "bin" / "ptxas", ptx, architecture), flags, wanted)
        # As the program itself has it done: to machine code at once.
        real = [f"--gpu-architecture={architecture}", "--ptxas-options=-v"]
        gate.take(nvrtc_12.name, architecture, nvrtc_12.compile(source, headers, [*real, *flags])[1], flags, wanted)
    if gate.bad:
        sys.exit("compile gate: over budget or missing: " + "; ".join(gate.bad))
    print("within budget")


if __name__ == "__main__":
    main()
