"""The whole product on real input: an agent learns CartPole through the policy server.

`python -m demo` exports a TF-Agents policy, serves it, lets simulators in processes of their own
play through the service, learns from what they played, and publishes new weights that are swapped
in while they play.

    environments ─► client ─► service ─► client ─► simulator ─┐
                                 ▲                             ▼
                            checkpoints ◄─ publisher ◄─ trainer ◄─ simulators (reports)
"""
