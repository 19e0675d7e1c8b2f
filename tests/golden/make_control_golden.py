"""Trajectories of Gymnasium's classic control, for the dynamics of leap-tasks to match step for step.

    python3 -m venv venv && venv/bin/pip install gymnasium==1.4.0 numpy safetensors
    venv/bin/python tests/golden/make_control_golden.py

Each is stored in double precision: the physics, the states before each step and after the last, the actions, the rewards
and whether the episode ended there. Where one ends, the next starts.
"""

import numpy as np
from gymnasium.envs.classic_control import AcrobotEnv, CartPoleEnv, MountainCarEnv
from safetensors.numpy import save_file

STEPS = 400


def cart_pole(rng, varied):
    env = CartPoleEnv()
    if varied:
        env.gravity, env.masscart, env.masspole = rng.uniform([6, 0.5, 0.05], [14, 2, 0.5])
        env.length, env.force_mag = rng.uniform([0.25, 6], [1, 15])
        env.total_mass = env.masspole + env.masscart
        env.polemass_length = env.masspole * env.length
    return env, [env.gravity, env.masscart, env.masspole, env.length, env.force_mag], 2


def mountain_car(rng, varied):
    env = MountainCarEnv()
    if varied:
        env.force, env.gravity = rng.uniform([0.0008, 0.002], [0.0015, 0.003])
    return env, [env.force, env.gravity], 3


def acrobot(rng, varied):
    env = AcrobotEnv()
    if varied:  # Its gravity is a constant of the code.
        env.LINK_LENGTH_1 = rng.uniform(0.8, 1.2)
        env.LINK_COM_POS_1 = env.LINK_LENGTH_1 / 2
        env.LINK_MASS_1, env.LINK_MASS_2 = rng.uniform(0.7, 1.3, 2)
        torque = rng.uniform(0.8, 1.5)
        env.AVAIL_TORQUE = [-torque, 0.0, torque]
    physics = [env.LINK_LENGTH_1, env.LINK_MASS_1, env.LINK_MASS_2, env.AVAIL_TORQUE[2]]
    return env, physics, 3


def trajectory(env, actions, rng):
    states, taken, rewards, ends = [], [], [], []
    env.reset(seed=int(rng.integers(1 << 30)))
    energetic = rng.uniform() < 0.5
    for _ in range(STEPS):
        state = np.array(env.state, dtype=np.float64)
        states.append(state)
        # At random, or along with the motion, which comes to an end.
        action = int(rng.integers(actions))
        if energetic and rng.uniform() < 0.9:
            action = (actions - 1) if state[-1 if len(state) == 2 else 3] > 0 else 0
        _, reward, terminated, _, _ = env.step(action)
        taken.append(action)
        rewards.append(reward)
        ends.append(float(terminated))
        after = np.array(env.state, dtype=np.float64)
        states.append(after)
        if terminated:
            env.reset(seed=int(rng.integers(1 << 30)))
    return {
        "states": np.array(states).reshape(STEPS, 2, -1),
        "actions": np.array(taken, dtype=np.float64),
        "rewards": np.array(rewards, dtype=np.float64),
        "ends": np.array(ends),
    }


def main():
    rng = np.random.default_rng(0)
    tensors = {}
    for make in [cart_pole, mountain_car, acrobot]:
        for i in range(4):
            env, physics, actions = make(rng, varied=i > 0)
            name = f"{make.__name__}/{i}"
            tensors[f"{name}/physics"] = np.array(physics, dtype=np.float64)
            for key, value in trajectory(env, actions, rng).items():
                tensors[f"{name}/{key}"] = np.ascontiguousarray(value)
    save_file(tensors, "tests/golden/control.safetensors")


if __name__ == "__main__":
    main()
