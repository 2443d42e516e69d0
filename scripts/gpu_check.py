#!/usr/bin/env python3
"""The stages of gpu_check.sh. Each has a share of the time and leaves what it found in the folder,
whatever comes after.

    digest      the same rounds with several numbers of workers and batch limits: one digest
    launches    time per batch of 16 to 8192 rows, TFLOP/s, and the share of the bf16 matrix rate
                measured here; positions of play through the network on CPU and GPU: the largest
                differences, agreement of the top action
    torch       the same network in PyTorch, bf16: eager, compiled, as CUDA graphs; the module as
                written and the folded chain
    selfplay    medium search, 4 players, 5 cards over workers x in-flight x batch limits; 4 workers
                by themselves; GPU memory
    sanitizer   compute-sanitizer memcheck and racecheck over small and large batches, if it is
                there

--rehearse runs all of it on the CPU, briefly, to see that the script works; its figures mean
nothing.
"""

import argparse
import csv
import json
import os
import shutil
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path

try:
    import numpy
except ImportError:
    sys.exit(
        "gpu_check: numpy is missing for this python3; pip install numpy"
        " (and torch for the comparison)"
    )

FEATURES, ACTIONS, SEATS, WIDTH, DEPTH, FFN = 256, 52, 8, 256, 6, 1024
BUDGET_S = 8 * 60 - 20
LIMITS = {"policy difference": 0.01, "top-1 agreement": 0.99, "value difference": 0.02}


class Failed(Exception):
    """A stage that could not be run to its end; the message is one line."""


class Check:
    """What all stages share: the binary, the folder, the clock, and the lines of the summary."""

    def __init__(self, binary, folder, rehearse):
        self.binary, self.folder, self.rehearse = binary, folder, rehearse
        self.backend = "cpu" if rehearse else "cuda"
        self.began = time.monotonic()
        self.lines, self.failed = [], False
        self.weights = folder / "weights.safetensors"
        self.matrix_tflops = None
        self.launches = {}

    def left(self):
        return BUDGET_S - (time.monotonic() - self.began)

    def say(self, line=""):
        self.lines.append(line)
        print(line, flush=True)
        (self.folder / "summary.txt").write_text("\n".join(self.lines) + "\n")

    def verdict(self, what, passed, found):
        self.failed |= not passed
        self.say(f"{'pass' if passed else 'FAIL'}  {what}: {found}")

    def run(self, *arguments, timeout=120, check=True):
        """Runs the binary; its stdout. A failure is the stage's."""
        command = [str(self.binary), *map(str, arguments)]
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=max(5, min(timeout, self.left()))
            )
        except subprocess.TimeoutExpired:
            raise Failed(f"{' '.join(command[1:4])} ... did not end in time") from None
        with open(self.folder / "log.txt", "a") as log:
            log.write(f"$ {' '.join(command)}\n{done.stderr}\n")
        if check and done.returncode != 0:
            said = done.stderr.strip().splitlines()[-1:] or done.returncode
            raise Failed(f"{' '.join(command[1:4])} ...: {said}")
        return done.stdout

    def selfplay(self, out, rounds, *flags, timeout=120):
        shutil.rmtree(out, ignore_errors=True)
        arguments = [
            "selfplay",
            "--json",
            "--backend",
            self.backend,
            "--weights",
            self.weights,
            "--out",
            out,
        ]
        report = json.loads(self.run(*arguments, "--rounds", rounds, *flags, timeout=timeout))
        shutil.rmtree(out, ignore_errors=True)
        return report

    def write(self, name, rows):
        if not rows:
            return
        with open(self.folder / name, "w", newline="") as file:
            writer = csv.DictWriter(file, fieldnames=list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)


def doctor(check):
    told = json.loads(check.run("doctor", "--json", timeout=60))
    (check.folder / "doctor.json").write_text(json.dumps(told, indent=1))
    for finding in told["findings"]:
        if finding["topic"] in ("CUDA driver", "GPU"):
            check.say(f"{finding['topic']}: {finding['found']}")
            if finding["state"] == "missing" and not check.rehearse:
                print(
                    f"gpu_check: no usable GPU: {finding['found']}; {finding['remedy']}",
                    file=sys.stderr,
                )
                sys.exit(1)


def digest(check):
    rounds = 60 if check.rehearse else 1500
    most = max(2, (os.cpu_count() or 2) - 2)
    rows = []
    for flags in (
        ["--workers", 0],
        ["--workers", 1],
        ["--workers", 4, "--max-batch", 64],
        ["--workers", 4, "--max-batch", 512],
        ["--workers", most, "--max-batch", 2048],
        ["--workers", most, "--max-batch", 8192, "--max-wait-us", 2000],
        ["--workers", most, "--max-batch", 1000, "--max-wait-us", 200],
    ):
        report = check.selfplay(check.folder / "replay", rounds, "--seed", 11, *flags)
        rows.append(
            {
                "flags": " ".join(map(str, flags)),
                "digest": report["digest"],
                "batch_mean": report["batch_mean"],
            }
        )
    check.write("digest.csv", rows)
    digests = {row["digest"] for row in rows}
    check.verdict(
        "digest over workers and batch limits",
        len(digests) == 1,
        f"{len(rows)} runs, {len(digests)} digest(s)",
    )


def agreement(check, found):
    """How far the GPU's answers are from the CPU's; there are none in a rehearsal."""
    if found is None:
        return
    check.write("agreement.csv", [found])
    policy, value, top = (
        found["policy_max_difference"],
        found["value_max_difference"],
        found["top1_agreement"],
    )
    check.verdict("answers are finite", found["finite"], f"{found['rows']} positions")
    check.verdict(
        "policy as on the CPU",
        policy <= LIMITS["policy difference"],
        f"largest difference {policy:.5f}",
    )
    check.verdict("top-1 as on the CPU", top >= LIMITS["top-1 agreement"], f"{100 * top:.3f} %")
    check.verdict(
        "value as on the CPU",
        value <= LIMITS["value difference"],
        f"largest difference {value:.5f}",
    )


def launches(check):
    most = 256 if check.rehearse else 8192
    arguments = [
        "profile",
        "evaluator",
        "--backend",
        check.backend,
        "--weights",
        check.weights,
        "--max-batch",
        most,
        "--json",
    ]
    told = json.loads(check.run(*arguments))
    check.launches = {size["rows"]: size["device_us_p50"] for size in told["sizes"]}
    rate = matrix_rate(check)
    for size in told["sizes"]:
        size["share_of_matrix_rate"] = round(size["tflops"] / rate, 4) if rate else ""
    check.write("launches.csv", told["sizes"])
    measured = f"{rate:.0f} TFLOP/s" if rate else "not measured (no PyTorch)"
    check.say(f"{told['device']}; bf16 matrix rate measured: {measured}")
    check.say(
        f"{'rows':>6} {'device us':>10} {'wall us':>10} {'wall p99':>10}"
        f" {'TFLOP/s':>9} {'share':>7}  kernel"
    )
    for size in told["sizes"]:
        share = f"{100 * size['share_of_matrix_rate']:.1f} %" if rate else "-"
        check.say(
            f"{size['rows']:>6} {size['device_us_p50']:>10.1f} {size['wall_us_p50']:>10.1f}"
            f" {size['wall_us_p99']:>10.1f} {size['tflops']:>9.1f} {share:>7}"
            f"  {size['kernel'] or ''}"
        )
    agreement(check, told["agreement"])
    check.say(f"t(batch) = {told['fixed_us']:.1f} us + {1000 * told['per_row_us']:.1f} ns x rows")
    if not check.rehearse:
        at_1024 = check.launches[1024]
        check.verdict("1024 rows in 60 us (asked of an H200)", at_1024 <= 60, f"{at_1024:.1f} us")


def import_torch():
    try:
        import torch
    except ImportError as error:
        raise Failed(f"no PyTorch ({error})") from None
    return torch


def device_of(check, torch):
    if check.rehearse:
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise Failed("this PyTorch sees no GPU")
    return torch.device("cuda")


def median_us(check, torch, run, repeats=60):
    """Median time of `run`: by events on a GPU, by the clock on the CPU."""
    for _ in range(3):
        run()
    times = []
    if check.rehearse:
        for _ in range(5):
            began = time.perf_counter()
            run()
            times.append((time.perf_counter() - began) * 1e6)
    else:
        torch.cuda.synchronize()
        for _ in range(repeats):
            begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            begin.record()
            run()
            end.record()
            end.synchronize()
            times.append(begin.elapsed_time(end) * 1e3)
    return float(numpy.median(times))


def matrix_rate(check):
    """bf16 TFLOP/s of a large product on random data, or None without PyTorch."""
    try:
        torch = import_torch()
        device = device_of(check, torch)
    except Failed:
        return None
    size = 256 if check.rehearse else 8192
    a, b = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
    return 2 * size**3 / median_us(check, torch, lambda: a @ b, 20) * 1e-6


def networks(check, torch, device):
    """BlobNet as a module of PyTorch's own layers, and as the folded chain, both with the weights
    of the check."""
    from torch import nn

    class BlobNet(nn.Module):
        def __init__(self):
            super().__init__()
            self.input_embedding = nn.Linear(FEATURES, WIDTH)
            self.input_norm = nn.LayerNorm(WIDTH)
            self.positional_encoding = nn.Parameter(torch.zeros(1, 1, WIDTH))
            layer = nn.TransformerEncoderLayer(WIDTH, 8, FFN, dropout=0.0, batch_first=True)
            self.transformer = nn.TransformerEncoder(layer, DEPTH, enable_nested_tensor=False)
            self.policy_fc = nn.Sequential(
                nn.Linear(WIDTH, WIDTH), nn.ReLU(), nn.Dropout(0.0), nn.Linear(WIDTH, ACTIONS)
            )
            self.value_fc = nn.Sequential(
                nn.Linear(WIDTH, WIDTH // 2),
                nn.ReLU(),
                nn.Dropout(0.0),
                nn.Linear(WIDTH // 2, SEATS),
                nn.Tanh(),
            )

        def forward(self, features, mask):
            token = (
                self.input_norm(self.input_embedding(features)).unsqueeze(1)
                + self.positional_encoding
            )
            encoded = self.transformer(token).squeeze(1)
            logits = self.policy_fc(encoded).float().masked_fill(~mask, float("-inf"))
            return logits.softmax(1), self.value_fc(encoded)

    class Folded(nn.Module):
        def __init__(self, whole):
            super().__init__()
            self.whole, self.mixes = whole, nn.ModuleList()
            for layer in whole.transformer.layers:
                mix, attention = nn.Linear(WIDTH, WIDTH), layer.self_attn
                out, into = (
                    attention.out_proj.weight.double(),
                    attention.in_proj_weight[2 * WIDTH :].double(),
                )
                weight = torch.eye(WIDTH, dtype=torch.float64) + out @ into
                bias = (
                    out @ attention.in_proj_bias[2 * WIDTH :].double()
                    + attention.out_proj.bias.double()
                )
                mix.weight, mix.bias = nn.Parameter(weight.float()), nn.Parameter(bias.float())
                self.mixes.append(mix)

        def forward(self, features, mask):
            whole = self.whole
            y = whole.input_norm(whole.input_embedding(features)) + whole.positional_encoding[0]
            for layer, mix in zip(whole.transformer.layers, self.mixes):
                y = layer.norm1(mix(y))
                y = layer.norm2(y + layer.linear2(torch.relu(layer.linear1(y))))
            logits = whole.policy_fc(y).float().masked_fill(~mask, float("-inf"))
            return logits.softmax(1), whole.value_fc(y)

    whole = BlobNet().eval()
    state = read_safetensors(check.weights, torch)
    whole.load_state_dict(state)
    with torch.no_grad():
        folded = Folded(whole).eval()
        probe = torch.rand(32, FEATURES), torch.rand(32, ACTIONS) < 0.3
        probe[1][:, 0] = True
        difference = max(float((a - b).abs().max()) for a, b in zip(whole(*probe), folded(*probe)))
    if difference > 1e-3:
        raise Failed(f"the folded network differs from the whole one by {difference}")
    # The folded one shares the modules of the whole: a copy, so that each is moved and cast once.
    import copy

    cast = lambda model: copy.deepcopy(model).to(device=device, dtype=torch.bfloat16)
    return {"module": cast(whole), "folded": cast(folded)}


def read_safetensors(path, torch):
    """The tensors of a file, without the safetensors package."""
    data = Path(path).read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    types = {"F32": torch.float32, "BF16": torch.bfloat16}
    tensors = {}
    for name, entry in header.items():
        if name != "__metadata__":
            begin, end = (8 + length + offset for offset in entry["data_offsets"])
            raw = torch.frombuffer(bytearray(data[begin:end]), dtype=types[entry["dtype"]])
            tensors[name] = raw.reshape(entry["shape"]).float()
    return tensors


def as_graph(torch, model, features, mask):
    """Captures a call; what replays it."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            model(features, mask)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        model(features, mask)
    return graph.replay


def torch_forms(check):
    torch = import_torch()
    device = device_of(check, torch)
    torch.manual_seed(1)
    # A machine may have few cores: not a process per core of the host.
    os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "8")
    until = time.monotonic() + min(150, check.left() - 100)
    sizes = [16, 64] if check.rehearse else [16, 64, 256, 512, 1024, 4096, 8192]
    rows = []
    with torch.inference_mode():
        for name, model in networks(check, torch, device).items():
            inputs = {}
            for size in sizes:
                mask = torch.rand(size, ACTIONS, device=device) < 0.2
                mask[:, 0] = True
                features = (torch.rand(size, FEATURES, device=device) < 0.2).to(torch.bfloat16)
                inputs[size] = (features, mask)
            for form in ("eager", "eager, graph", "compiled", "compiled, graph"):
                run_model = model
                if form.startswith("compiled"):
                    torch._dynamo.reset()
                    run_model = torch.compile(model, dynamic=False)
                for size in sizes:
                    if time.monotonic() > until or (check.rehearse and form.startswith("compiled")):
                        check.say(f"torch: no time for {name}, {form}, {size} rows")
                        continue
                    try:
                        call = lambda: run_model(*inputs[size])
                        if form.endswith("graph"):
                            if check.rehearse:
                                continue
                            call = as_graph(torch, run_model, *inputs[size])
                        row = {
                            "network": name,
                            "form": form,
                            "rows": size,
                            "us_p50": round(median_us(check, torch, call), 2),
                        }
                    except Exception as error:  # One form failing must not lose the others.
                        said = str(error).splitlines()[0][:120]
                        check.say(f"torch: {name}, {form}, {size} rows failed: {said}")
                        break
                    rows.append(row)
                # At once: what comes next may take the time that is left.
                check.write("torch.csv", rows)
    check.say(f"{'rows':>6} {'ringmaster us':>14} {'best PyTorch us':>16} {'ratio':>6}  form")
    for size in sizes:
        of_size = [row for row in rows if row["rows"] == size]
        if of_size and size in check.launches:
            best = min(of_size, key=lambda row: row["us_p50"])
            ratio = best["us_p50"] / check.launches[size]
            check.say(
                f"{size:>6} {check.launches[size]:>14.1f} {best['us_p50']:>16.1f} {ratio:>6.2f}"
                f"  {best['network']}, {best['form']}"
            )
            if size in (256, 512, 1024) and not check.rehearse:
                check.verdict(f"3x the best of PyTorch at {size} rows", ratio >= 3, f"{ratio:.2f}x")


class GpuMemory:
    """Most memory of the GPU in use while a stage runs, MiB, by nvidia-smi."""

    def __init__(self):
        self.most, self.over = None, threading.Event()
        self.thread = threading.Thread(target=self.watch, daemon=True)

    def watch(self):
        while not self.over.is_set():
            try:
                query = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits"]
                text = subprocess.run(query, capture_output=True, text=True, timeout=10).stdout
                self.most = max(self.most or 0, int(text.split()[0]))
            except (OSError, ValueError, IndexError, subprocess.TimeoutExpired):
                return
            self.over.wait(0.5)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.over.set()
        self.thread.join(timeout=15)


KEPT = (
    "rounds",
    "elapsed_s",
    "rounds_per_min",
    "evaluations_per_s",
    "batches",
    "batch_mean",
    "batch_p50",
    "batch_max",
    "evaluator_busy",
    "gpu_memory_mib",
    "gpu_memory_used_mib",
)


def selfplay(check):
    cores = os.cpu_count() or 2
    seconds = 1 if check.rehearse else 5
    rate, rows = 5_000 if check.rehearse else 60_000, []

    def trial(name, *flags):
        nonlocal rate
        rounds = max(50, int(rate / 60 * seconds))
        report = check.selfplay(check.folder / "replay", rounds, "--seed", len(rows), *flags)
        rate = report["rounds_per_min"]
        cpu = report["cpu_s"]
        row = {
            "name": name,
            "workers": report["workers"],
            "in_flight": report["in_flight"],
            "max_batch": report["max_batch"],
        }
        row.update({key: report[key] for key in KEPT})
        row.update({f"cpu_{key}": value / report["elapsed_s"] for key, value in cpu.items()})
        rows.append(row)
        check.say(
            f"{name:<28} {row['workers']:>7} {row['in_flight']:>9} {row['max_batch']:>9}"
            f" {row['rounds_per_min']:>11.0f} {row['evaluations_per_s']:>11.0f}"
            f" {row['batch_mean']:>10.0f} {100 * row['evaluator_busy']:>5.0f} %"
        )
        return row

    check.say(
        f"{'self-play':<28} {'workers':>7} {'in flight':>9} {'max batch':>9} {'rounds/min':>11}"
        f" {'evals/s':>11} {'batch mean':>10} {'busy':>7}"
    )
    with GpuMemory() as memory:
        four = trial("4 workers, defaults", "--workers", 4)
        if not check.rehearse:
            trial("4 workers, batch 2048", "--workers", 4, "--max-batch", 2048)
        for workers in sorted(
            {cores, max(1, cores - 1), max(1, cores - 2), max(1, cores // 2)}, reverse=True
        ):
            for max_batch in (512,) if check.rehearse else (512, 1024, 2048, 4096):
                if check.left() < 70:
                    check.say("self-play: no time for more")
                    break
                trial("grid", "--workers", workers, "--max-batch", max_batch)
        best = max(rows, key=lambda row: row["rounds_per_min"])
        if not check.rehearse and check.left() > 70:
            for in_flight in (best["in_flight"] // 2, best["in_flight"] * 2):
                flags = [
                    "--workers",
                    best["workers"],
                    "--max-batch",
                    best["max_batch"],
                    "--in-flight",
                    max(1, in_flight),
                ]
                trial("best, other in-flight", *flags)
            flags = [
                "--workers",
                best["workers"],
                "--max-batch",
                best["max_batch"],
                "--parking",
                "poll",
            ]
            trial("best, polling", *flags)
    check.write("selfplay.csv", rows)
    best = max(rows, key=lambda row: row["rounds_per_min"])
    check.say(
        f"best: {best['rounds_per_min']:.0f} rounds/min with {best['workers']} workers,"
        f" {best['in_flight']} in flight, batches up to {best['max_batch']};"
        f" busy {100 * best['evaluator_busy']:.0f} %"
    )
    check.say(f"5,000,000 rounds take {5e6 / best['rounds_per_min']:.0f} minutes")
    check.say(
        f"GPU memory: {best['gpu_memory_mib']:.1f} MiB taken; whole GPU at most {memory.most} MiB"
        " in use by nvidia-smi"
    )
    if not check.rehearse:
        check.verdict(
            "4 workers: mean batch of 256", four["batch_mean"] >= 256, f"{four['batch_mean']:.0f}"
        )
        check.verdict(
            "100,000 rounds/min", best["rounds_per_min"] >= 100_000, f"{best['rounds_per_min']:.0f}"
        )
    stages(check, best)


def stages(check, best):
    """Latency by stage, if this binary can profile self-play."""
    if (
        subprocess.run(
            [str(check.binary), "profile", "selfplay", "--help"], capture_output=True
        ).returncode
        != 0
    ):
        check.say("per-stage latency: this binary has no `profile selfplay`")
        return
    told = check.run(
        "profile",
        "selfplay",
        "--backend",
        check.backend,
        "--workers",
        best["workers"],
        timeout=40,
        check=False,
    )
    (check.folder / "stages.txt").write_text(told)
    check.say(f"per-stage latency: {check.folder / 'stages.txt'}")


def sanitizer(check):
    tool = shutil.which("compute-sanitizer") or shutil.which(
        "/usr/local/cuda/bin/compute-sanitizer"
    )
    if tool is None or check.rehearse:
        check.say("compute-sanitizer: not run" + ("" if check.rehearse else " (not installed)"))
        return
    profile = [
        "profile",
        "evaluator",
        "--backend",
        "cuda",
        "--weights",
        str(check.weights),
        "--json",
        "--max-batch",
    ]
    # Small batches meet the small tiles, large ones the large ones.
    for name, rows in (
        ("memcheck", 33),
        ("racecheck", 33),
        ("memcheck", 1024),
        ("racecheck", 1024),
    ):
        limit = min(90, check.left() - 5)
        if limit < 15:
            check.say(f"compute-sanitizer {name}, {rows} rows: no time left")
            continue
        command = [
            tool,
            "--tool",
            name,
            "--error-exitcode",
            "77",
            str(check.binary),
            *profile,
            str(rows),
        ]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=limit)
        except subprocess.TimeoutExpired:
            check.say(f"compute-sanitizer {name}, {rows} rows: did not end in {limit:.0f} s")
            continue
        (check.folder / f"{name}-{rows}.txt").write_text(done.stdout + done.stderr)
        if "Device not supported" in done.stdout + done.stderr:
            check.say(f"compute-sanitizer {name}: does not support this machine")
            continue
        last = [line for line in done.stdout.splitlines() if "SUMMARY" in line]
        check.verdict(
            f"compute-sanitizer {name}, {rows} rows",
            done.returncode == 0,
            last[-1].strip("= ") if last else f"exit code {done.returncode}",
        )


STAGES = (digest, launches, torch_forms, selfplay, sanitizer)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("binary", type=lambda path: Path(path).resolve())
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rehearse", action="store_true", help="everything on the CPU, briefly")
    parser.add_argument("--only", default="", help="stages to run, comma-separated")
    arguments = parser.parse_args()
    names = [stage.__name__.split("_")[0] for stage in STAGES]
    only = [name for name in arguments.only.split(",") if name] or names
    unknown = set(only) - set(names)
    if unknown:
        parser.error(f"no stage {', '.join(sorted(unknown))}; there are {', '.join(names)}")
    arguments.folder.mkdir(parents=True, exist_ok=True)
    check = Check(arguments.binary, arguments.folder, arguments.rehearse)
    (check.folder / "log.txt").write_text("")
    try:
        doctor(check)
        check.run("weights", "init", "--out", check.weights)
    except Failed as failure:
        print(f"gpu_check: {failure}", file=sys.stderr)
        sys.exit(1)
    for name, stage in zip(names, STAGES):
        if name not in only:
            continue
        if check.left() < 15:
            check.say(f"{name}: no time left")
            continue
        began = time.monotonic()
        check.say(f"-- {name}")
        try:
            stage(check)
        except Failed as failure:
            check.verdict(name, False, str(failure))
        check.say(f"   ({time.monotonic() - began:.0f} s)")
    outcome, seconds = "FAILED" if check.failed else "passed", time.monotonic() - check.began
    check.say(f"{outcome} in {seconds:.0f} s; tables in {check.folder}")
    sys.exit(1 if check.failed else 0)


if __name__ == "__main__":
    main()
