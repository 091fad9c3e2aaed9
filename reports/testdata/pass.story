leader-kill  Lose the leader, then the quorum
  Three members outlive one leader. After the second loss the rest must refuse
  rather than lie, and whoever comes back must catch up.
  local driver; seed 42; 3 members, quorum 2; 4 clients at 400/s on 64 keys

    0.01s  up       starting the lab
    2.38s  up       the cluster is up, after 2.37s; m1 leads, term 2, etcd 3.7.3
    2.39s  steady   looking for a steady state
    2.60s  load     starting the load
    3.20s  step 1   do put: key Gabon, value "Bona nit"
    3.23s  ok       step 1 in 31ms
    3.60s  load     398 operations acknowledged per second
    4.10s  step 2   break crash leader: as first
                    kill -9, no goodbye; a polite stop would hand leadership
                    over
    4.10s  aim      leader is m1
    4.11s  fault    first (crash of m1) injected
    4.16s  proved   first bites, after 50ms: process 4711 of m1 is gone, its
                    client port refuses
    4.16s  ok       step 2 in 62ms
    4.17s  step 3   check leader: changed, within 5s
    4.20s  leader   nobody leads
    4.20s  member   m1 does not answer
    5.38s  leader   m3 leads, term 3, 1.27s after first
    5.41s  ok       step 3 in 1.24s
    7.00s  step 4   break crash leader: as second
    7.00s  aim      leader is m3
    7.01s  fault    second (crash of m3) injected
    7.06s  proved   second bites, after 50ms: process 4733 of m3 is gone, its
                    client port refuses
    7.07s  ok       step 4 in 71ms
    7.08s  step 5   check writes: refused, for 3s
    7.10s  leader   nobody leads
    7.10s  member   m3 does not answer
    9.00s  refused  m2$ etcdctl --command-timeout 1s put probe 1: exit 1: Error:
                    context deadline exceeded
    9.60s  outage   nothing was acknowledged in the last second
   10.08s  ok       step 5 in 3.00s
   10.09s  step 6   heal first
   10.10s  heal     first (crash of m1)
   10.48s  gone     first is gone, after 380ms: process 4790 of m1 listens
   10.50s  member   m1 answers again
   10.50s  ok       step 6 in 412ms
   10.51s  step 7   check writes: accepted, within 5s
   11.20s  leader   m2 leads, term 5, 1.10s after healing first
   11.33s  ok       step 7 in 824ms
   11.60s  load     10 operations per second again, after about 2s of nothing
   12.20s  step 8   heal second
   12.21s  heal     second (crash of m3)
   12.56s  gone     second is gone, after 350ms: process 4801 of m3 listens
   12.59s  ok       step 8 in 386ms
   12.60s  step 9   check members: healthy 3, equal hash, within 10s
   12.60s  member   m3 answers again
   13.91s  ok       step 9 in 1.31s
   13.95s  heal     healing what is still broken
   13.96s  end      looking how the cluster stands
   14.40s  down     taking the lab down
