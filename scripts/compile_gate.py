"""The compile gate of the CUDA kernels; scripts/compile_gate.sh says what it is and sets it up."""

import ctypes
import hashlib
import pathlib
import re
import subprocess
import sys
import sysconfig
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
KERNELS = ROOT / "kernels"
PTX = KERNELS / "ptx"
OUT = ROOT / "target" / "compile-gate"
# A module of PTX for each family of entry points and each width: the oldest architecture it is
# for, and those that load it.
FAMILIES = {
    "block": ("compute_80", ["sm_80", "sm_89", "sm_90"]),
    "cluster": ("compute_90", ["sm_90"]),
}
WIDTHS = [128, 256]
# Products and sums outside the matrix products are not fused: every entry point rounds alike, and
# like the emulation.
OPTIONS = ["--std=c++17", "--fmad=false"]
# Shared memory that an architecture gives one block.
SHARED = {"sm_80": 163 * 1024, "sm_89": 99 * 1024, "sm_90": 227 * 1024}
# The budget: one block of 256 threads has a multiprocessor to itself, so 255 registers a thread
# is what the hardware gives; past 248 the next change would spill. No spill, no stack, and no more
# shared memory than the architecture's.
REGISTERS = 248
SPILL_BYTES = 0
STACK_BYTES = 0


def wheel_folders() -> tuple[pathlib.Path, list[pathlib.Path]]:
    """The NVRTC that makes the PTX, and every ptxas: of the same CUDA, and of a new one."""
    site = pathlib.Path(sysconfig.get_paths()["purelib"]) / "nvidia"
    assemblers, nvrtc = sorted(site.glob("cu*/bin/ptxas")), site / "cuda_nvrtc"
    if len(assemblers) != 2 or not nvrtc.is_dir():
        sys.exit(
            f"compile gate: {len(assemblers)} ptxas for 2, or no NVRTC, under {site}; remove"
            " target/compile-gate and start again"
        )
    return nvrtc, assemblers


class Nvrtc:
    """The few calls of NVRTC that are needed."""

    def __init__(self, cuda: pathlib.Path):
        library = sorted((cuda / "lib").glob("libnvrtc.so.*"))[0]
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

    def compile(self, sources: dict[str, str], flags: list[str]) -> str:
        """PTX."""
        program = ctypes.c_void_p()
        headers = {name: text for name, text in sources.items() if name.endswith(".cuh")}
        count = len(headers)
        names = (ctypes.c_char_p * count)(*[name.encode() for name in headers])
        texts = (ctypes.c_char_p * count)(*[text.encode() for text in headers.values()])
        main = sources["blobnet.cu"].encode()
        made = self.library.nvrtcCreateProgram(
            ctypes.byref(program), main, b"blobnet.cu", count, texts, names
        )
        self.check(made, "nvrtcCreateProgram")
        array = (ctypes.c_char_p * len(flags))(*[flag.encode() for flag in flags])
        done = self.library.nvrtcCompileProgram(program, len(flags), array)
        self.check(done, f"NVRTC with {' '.join(flags)}", program)
        ptx = self.text(program, "PTX")
        self.library.nvrtcDestroyProgram(ctypes.byref(program))
        return ptx


def shortened(ptx: str) -> str:
    """From `.version` on, less what the driver does not need: comments, blanks, and constants
    that no instruction names."""
    lines = (re.sub(r"\s+", " ", line.split("//")[0]).strip() for line in ptx.splitlines())
    text = "\n".join(line for line in lines if line)
    names = set(re.findall(r"[\w$]+", re.sub(r"(?m)^\.global .*$", "", text)))

    def is_needed(line: str) -> bool:
        constant = re.match(r"\.global \.align \d+ \.\w+ (\w+)", line)
        return constant is None or constant[1] in names

    return "\n".join(line for line in text.splitlines() if is_needed(line)) + "\n"


def module(nvrtc: Nvrtc, sources: dict[str, str], family: str, width: int, extra=()) -> str:
    """The file: of which sources, made how; what is in it for f16 and, with the types of the
    operands replaced, for bf16; and the text for f16."""
    flags = [
        f"--gpu-architecture={FAMILIES[family][0]}",
        *OPTIONS,
        f"-DBLOBNET_WIDTH={width}",
        f"-DBLOBNET_{family.upper()}",
        *extra,
    ]
    f16, bf16 = (
        shortened(nvrtc.compile(sources, [*flags, f"-DBLOBNET_F16={is_f16}"])) for is_f16 in (1, 0)
    )
    parts = "".join(f"{name}\0{text}\0" for name, text in sorted(sources.items()))

    def hash_of(text: str) -> str:
        return hashlib.sha256(text.encode()).hexdigest()

    # The hashes are of what stands behind `.version`, as tests/cuda_emulation.rs takes them.
    head = [
        f"sources {hash_of(parts)}",
        f"f16 {hash_of(f16.removeprefix('.version'))}",
        f"bf16 {hash_of(bf16.removeprefix('.version'))}",
        f"NVRTC 12.0: {' '.join(flags)}",
    ]
    return "".join(f"// {line}\n" for line in head) + f16


def assemble(ptxas: pathlib.Path, ptx: pathlib.Path, architecture: str) -> tuple[str, float]:
    """What ptxas says, and the seconds it took."""
    cubin = OUT / f"{ptx.stem}.{architecture}.cubin"
    command = [str(ptxas), "-v", "-arch", architecture, str(ptx), "-o", str(cubin)]
    began = time.monotonic()
    run = subprocess.run(command, capture_output=True, text=True)
    if run.returncode != 0:
        sys.exit(f"compile gate: {' '.join(command)}\n{run.stdout}{run.stderr}")
    return run.stdout + run.stderr, time.monotonic() - began


def entries(report: str) -> dict[str, dict[str, int]]:
    """Registers, stack and spills of each entry point, from what `ptxas -v` says."""
    found: dict[str, dict[str, int]] = {}
    name = None
    spills = r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads"
    for line in report.splitlines():
        if match := re.search(r"Compiling entry function '(\w+)'", line):
            name = match[1]
            found[name] = {}
        elif name and (match := re.search(spills, line)):
            found[name] |= {"stack": int(match[1]), "spills": int(match[2]) + int(match[3])}
        elif name and (match := re.search(r"Used (\d+) registers", line)):
            found[name] |= {"registers": int(match[1])}
    return found


class Gate:
    """The table, and what in it is over the budget."""

    def __init__(self, shared_bytes: dict[str, int]):
        self.bad: list[str] = []
        self.shared_bytes = shared_bytes
        print(
            f"budget: {REGISTERS} registers, {STACK_BYTES} bytes of stack,"
            f" {SPILL_BYTES} bytes of spills"
        )
        print(
            f"{'ptxas':6} {'arch':6} {'module':12} {'entry point':19} {'registers':>9}"
            f" {'shared':>8} {'of':>8} {'stack':>6} {'spills':>6}"
        )

    def take(self, ptxas: pathlib.Path, architecture: str, path: pathlib.Path) -> None:
        """What ptxas says of one module on one architecture."""
        cuda, limit = ptxas.parent.parent.name, SHARED[architecture]
        report, seconds = assemble(ptxas, path, architecture)
        found = entries(report)
        wanted = re.findall(r"\.entry (\w+)", path.read_text())
        if set(found) != set(wanted):
            self.bad.append(f"{path.stem}: found {sorted(found)}, wanted {sorted(wanted)}")
        for entry, numbers in sorted(found.items()):
            keys = ("registers", "stack", "spills")
            registers, stack, spills = (numbers.get(key, 10**6) for key in keys)
            shared = self.shared_bytes.get(entry, 10**6)
            over = registers > REGISTERS or stack > STACK_BYTES or spills > SPILL_BYTES
            over |= shared > limit
            if over:
                self.bad.append(f"ptxas of {cuda}, {architecture}, {path.stem}: {entry}")
            mark = "  OVER BUDGET" if over else ""
            print(
                f"{cuda:6} {architecture:6} {path.stem:12} {entry:19} {registers:9}"
                f" {shared:8} {limit:8} {stack:6} {spills:6}{mark}"
            )
        print(f"{cuda:6} {architecture:6} {path.stem:12} in {seconds:.1f} s")


def main() -> None:
    write = sys.argv[1:] == ["--write"]
    nvrtc_folder, assemblers = wheel_folders()
    nvrtc = Nvrtc(nvrtc_folder)
    patterns = ("*.cu", "*.cuh")
    sources = {path.name: path.read_text() for end in patterns for path in KERNELS.glob(end)}
    counted = sources["definitions.cuh"].split("namespace shared_bytes_of")[1]
    shared_bytes = {
        f"blobnet_{name.lower()}": int(size) for name, size in re.findall(r"(\w+) = (\d+)", counted)
    }
    OUT.mkdir(parents=True, exist_ok=True)
    PTX.mkdir(exist_ok=True)
    # The tests' entry point has to compile for a GPU, too.
    module(nvrtc, sources, "block", 256, ["-DBLOBNET_FEATURES"])
    gate = Gate(shared_bytes)
    for family, (_, architectures) in FAMILIES.items():
        for width in WIDTHS:
            path = PTX / f"{family}_{width}.ptx"
            text = module(nvrtc, sources, family, width)
            if write:
                path.write_text(text)
            elif not path.exists() or path.read_text() != text:
                gate.bad.append(f"{path.relative_to(ROOT)} is old: scripts/compile_gate.sh --write")
                continue
            for ptxas in assemblers:
                for architecture in architectures:
                    gate.take(ptxas, architecture, path)
    if gate.bad:
        sys.exit("compile gate: " + "; ".join(gate.bad))
    print("within budget")


if __name__ == "__main__":
    main()
