"""The Omniglot convnet's training steps on a GPU in PyTorch, eager and as one program by `torch.func.vmap` with
`torch.compile`, and in JAX by `vmap` (jax_vmap.py), for as many of them as are installed.

Plain SGD, without Leap. Prints task steps a second of each. Called by the script that benches/gpu.sh packs.

    python benches/gpu.py TASKS [SECONDS]
"""

import pathlib
import subprocess
import sys
import time

STEPS = 20


def speed(step, sync, tasks, seconds):
    """Task steps a second of `step`, which takes one step of each task."""
    for _ in range(3):
        step()
    sync()
    done, start = 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        for _ in range(STEPS):
            step()
        sync()
        done += STEPS * tasks
    return done / (time.perf_counter() - start)


def pytorch(tasks, seconds):
    import torch
    from torch import nn
    from torch.func import functional_call, grad, stack_module_state, vmap

    device = "cuda" if torch.cuda.is_available() else "cpu"
    sync = torch.cuda.synchronize if device == "cuda" else lambda: None
    torch.backends.cudnn.benchmark = True

    def model():
        blocks = []
        for inputs in [1, 64, 64, 64]:
            norm = nn.BatchNorm2d(64, track_running_stats=False)
            blocks += [nn.Conv2d(inputs, 64, 3, padding=1), nn.MaxPool2d(2), norm, nn.ReLU()]
        return nn.Sequential(*blocks, nn.Flatten(), nn.Linear(64, 20)).to(device)

    x = torch.rand(tasks, 20, 1, 28, 28, device=device)
    y = torch.randint(20, (tasks, 20), device=device)
    models = [model() for _ in range(tasks)]
    optimizers = [torch.optim.SGD(m.parameters(), 0.1) for m in models]

    def eager():
        for net, optimizer, images, labels in zip(models, optimizers, x, y):
            nn.functional.cross_entropy(net(images), labels).backward()
            optimizer.step()
            optimizer.zero_grad()

    name = torch.cuda.get_device_name() if device == "cuda" else "the CPU"
    print(f"PyTorch {torch.__version__} on {name}, {tasks} tasks")
    print(f"  eager, one by one: {speed(eager, sync, tasks, seconds):.1f}")

    one = model()
    parameters, buffers = stack_module_state(models)

    def loss(parameters, buffers, images, labels):
        return nn.functional.cross_entropy(functional_call(one, (parameters, buffers), (images,)), labels)

    def together(parameters):
        gradients = vmap(grad(loss))(parameters, buffers, x, y)
        return {name: p - 0.1 * gradients[name] for name, p in parameters.items()}

    for how, function in [("vmap", together), ("vmap, compiled", torch.compile(together))]:
        state = {"parameters": {name: p.detach() for name, p in parameters.items()}}

        def step(function=function):
            state["parameters"] = function(state["parameters"])

        try:
            print(f"  {how}: {speed(step, sync, tasks, seconds):.1f}")
        except Exception as error:  # What this version cannot do is said, and the others go on.
            print(f"  {how}: {type(error).__name__}: {str(error).splitlines()[0]}")


def main():
    tasks, seconds = int(sys.argv[1]), float(sys.argv[2]) if len(sys.argv) > 2 else 5.0
    try:
        pytorch(tasks, seconds)
    except ImportError as error:
        print(f"PyTorch is not installed: {error}")
    jax = pathlib.Path(__file__).with_name("jax_vmap.py")
    found = subprocess.run([sys.executable, jax, str(tasks), str(seconds)], capture_output=True, text=True)
    if found.returncode == 0:
        print(f"  JAX, vmap: {float(found.stdout.split()[0]):.1f}")
    else:
        print(f"  JAX: {found.stderr.strip().splitlines()[-1]}")


if __name__ == "__main__":
    main()
