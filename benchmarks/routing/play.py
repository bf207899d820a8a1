import random,sys,time,statistics
from benchmarks.routing import strategies as st
from benchmarks.routing.judge import Figures
from benchmarks.routing.ours import Bullpen
from benchmarks.routing.simulation import Simulation
from benchmarks.routing.world import situations
GATE={"random":st.Random,"round robin":st.RoundRobin,"least busy":st.LeastBusy,"lowest latency":st.LowestLatency,"lowest cost":st.LowestCost,"power of two":st.PowerOfTwo,"weighted shuffle":st.WeightedShuffle}
def make(name,rng):
    if name=="oracle": return st.Oracle()
    if name in GATE: return GATE[name](rng)
    return Bullpen(name,rng)
secs=float(sys.argv[1]); seeds=range(int(sys.argv[2])); only=sys.argv[3] if len(sys.argv)>3 else ""
names=[*GATE,"balanced","cheapest","fastest","best","oracle"]
if len(sys.argv)>4: names=sys.argv[4].split(",")
for sit in situations(secs):
    if only and only not in sit.name: continue
    print(f"== {sit.name}")
    for name in names:
        figs=[]; t=time.time()
        for seed in seeds:
            strats=[make(name,random.Random(f"{seed}/{m}")) for m in range(sit.managers if name!="oracle" else 1)]
            sim=Simulation(sit,strats,seed)
            if name=="oracle": strats[0].simulation=sim
            figs.append(Figures.of(sim.run()))
        f=lambda k: statistics.fmean(getattr(x,k) for x in figs)
        print(f"{name:18} good {f('goodput'):.4f} acc {f('accepted'):.4f} p50 {f('p50_s'):6.2f} p95 {f('p95_s'):6.2f} p99 {f('p99_s'):6.2f} c/a {f('cost_per_accepted')*1e6:10.2f}u tries {f('tries'):.2f}  [{time.time()-t:.1f}s]")
