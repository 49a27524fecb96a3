"""What the reliability harness runs: the real program on the demo model, or one block of it, and ways to harm it."""
import hashlib, json, os, shutil, signal, struct, subprocess, sys, tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
REPOSITORY = os.path.dirname(os.path.dirname(HERE))

RECIPE = """stages:
  - tokenize: {corpus: %(text)s, samples: 6, length: 32, draw: random, seed: 0}
  - capture: {propagate: pruned}
  - factor: {kind: gram}
  - allocate: {method: owl, sparsity: 0.6, range: 0.08}
  - warmStart: {method: wanda, sparsity: allocated, targets: [k_proj, v_proj, o_proj]}
  - frankWolfe: {alpha: 0, step: pairwise, iterations: 10}
  - swap
  - reconstruct
  - emit
  - evaluate: {text: %(text)s, length: 32, windows: 2, tasks: }
"""


def small_model(target, blocks):
    """The demo model with its first blocks alone: every kind of unit, in a fraction of a second."""
    demo = REPOSITORY + "/demo"
    os.makedirs(target)
    for name in ["tokenizer.json", "tokenizer_config.json", "generation_config.json"]:
        shutil.copy(f"{demo}/{name}", target)
    config = json.load(open(demo + "/config.json"))
    config["num_hidden_layers"] = blocks
    json.dump(config, open(target + "/config.json", "w"))
    data = open(demo + "/model.safetensors", "rb").read()
    (count,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + count])
    kept, body = {}, b""
    for name, entry in header.items():
        parts = name.split(".")
        if name == "__metadata__" or parts[1] == "layers" and int(parts[2]) >= blocks:
            continue
        first, last = entry["data_offsets"]
        kept[name] = dict(entry, data_offsets=[len(body), len(body) + last - first])
        body += data[8 + count + first : 8 + count + last]
    text = json.dumps(kept).encode()
    text += b" " * (-len(text) % 8)
    with open(target + "/model.safetensors", "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text + body)


def files(folder):
    """All files below a folder, as paths inside of it."""
    return sorted(
        os.path.relpath(os.path.join(place, name), folder) for place, _, names in os.walk(folder) for name in names
    )


def digest(folder):
    """One digest for all files of a folder; None where it is not there."""
    if not os.path.isdir(folder):
        return None
    hash = hashlib.sha256()
    for name in files(folder):
        hash.update(name.encode() + b"\0" + hashlib.sha256(open(f"{folder}/{name}", "rb").read()).digest())
    return hash.hexdigest()


class Result:
    def __init__(self, process, output, errors):
        self.code, self.output, self.errors = process.returncode, output, errors

    def __repr__(self):
        return f"exit {self.code}: {self.errors[-600:]}"


class Scene:
    """A folder with a model, a text and a recipe, and runs of the program in it."""

    def __init__(self, binary, blocks, folder=None, recipe=RECIPE):
        place = "/dev/shm" if os.path.isdir("/dev/shm") else None
        self.owned = folder is None
        self.folder = folder or tempfile.mkdtemp(prefix="espalier-faults-", dir=place)
        self.binary = binary
        self.shim = self.folder + "/shim.so"
        subprocess.run(["cc", "-O1", "-shared", "-fPIC", "-o", self.shim, HERE + "/shim.c", "-ldl"], check=True)
        self.model, self.text = self.folder + "/model", self.folder + "/text.txt"
        self.recipe = self.folder + "/recipe.yaml"
        small_model(self.model, blocks)
        with open(REPOSITORY + "/demo/calibration.txt") as file:
            open(self.text, "w").write(file.read(20000))
        open(self.recipe, "w").write(recipe % {"text": self.text})

    def close(self):
        if self.owned:
            shutil.rmtree(self.folder, ignore_errors=True)

    def command(self, name, model=None, work=None, more=()):
        return [self.binary, "run", self.recipe, "--model", model or self.model, "--output", f"{self.folder}/{name}",
                "--work", work or f"{self.folder}/{name}.work", "--memory", "512MiB", "--threads", "1", *more]

    def environment(self, fault=None, log=None, **more):
        environment = dict(os.environ, **more)
        if fault or log or more:
            environment["LD_PRELOAD"] = self.shim
        if fault:
            environment["FAULT"] = fault
        if log:
            environment["FAULT_LOG"] = log
        return environment

    def start(self, command, environment=None, prefix=()):
        return subprocess.Popen([*prefix, *command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                                env=environment or dict(os.environ))

    def tell(self, arguments, prefix=(), environment=None):
        process = self.start([self.binary, *arguments], environment, prefix)
        return Result(process, *process.communicate(timeout=300)[:2])

    def run(self, name, fault=None, log=None, kill_after=None, number=signal.SIGKILL, prefix=(), environment=None, **more):
        """Runs to the end, or sends a signal after so many seconds."""
        environment = dict(self.environment(fault, log), **(environment or {}))
        process = self.start(self.command(name, **more), environment, prefix)
        try:
            output, errors = process.communicate(timeout=kill_after or 200)
        except subprocess.TimeoutExpired:
            process.send_signal(number)
            output, errors = process.communicate(timeout=600)
        return Result(process, output, errors)

    def remove(self, *names):
        for name in names:
            for suffix in ["", ".work", ".damaged"]:
                shutil.rmtree(f"{self.folder}/{name}{suffix}", ignore_errors=True)
        for name in os.listdir(self.folder):
            if ".partial" in name:
                shutil.rmtree(f"{self.folder}/{name}", ignore_errors=True)

    def digest(self, name):
        return digest(f"{self.folder}/{name}")

    def calls(self, calls, name="count"):
        """The calls of an undisturbed run, one line each."""
        log = self.folder + "/calls.log"
        if os.path.exists(log):
            os.remove(log)
        self.remove(name)
        result = self.run(name, f"{calls}:0:none:{self.folder}", log)
        assert result.code == 0, result
        lines = open(log).read().splitlines()
        self.remove(name)
        return lines


class Failure(Exception):
    pass


def require(condition, *what):
    if not condition:
        raise Failure(" ".join(str(part) for part in what))
