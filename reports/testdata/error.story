leader-kill  Lose the leader, then the quorum
  Three members outlive one leader. After the second loss the rest must refuse
  rather than lie, and whoever comes back must catch up.
  docker driver; seed 7; 3 members, quorum 2; 4 clients at 400/s on 64 keys

    0.01s  up       starting the lab
    1.20s  refused  m1$ docker pull node: exit 1: no space left on device
    1.30s  error    bring up: m1: docker pull node: exit 1: no space left on
                    device
