// Package verbs is the one table of all words a drill can use, and the kit the
// engine works with. A word is here, or it does not exist: nothing registers
// itself.
package verbs

import (
	"fmt"

	"github.com/etcdrill/etcdrill/lab"
	"github.com/etcdrill/etcdrill/lab/action"
	"github.com/etcdrill/etcdrill/lab/check"
	"github.com/etcdrill/etcdrill/lab/etcd"
	"github.com/etcdrill/etcdrill/lab/fault"
	"github.com/etcdrill/etcdrill/lab/judge"
	"github.com/etcdrill/etcdrill/lab/load"
)

// All returns the table. Each function in it makes a new verb to be filled.
func All() lab.Verbs {
	return lab.Verbs{
		Do: map[string]func() lab.Action{
			"put":       func() lab.Action { return &action.Put{} },
			"get":       func() lab.Action { return &action.Get{} },
			"delete":    func() lab.Action { return &action.Delete{} },
			"txn":       func() lab.Action { return &action.Txn{} },
			"seed":      func() lab.Action { return &action.Seed{} },
			"lease":     func() lab.Action { return &action.Lease{} },
			"keepalive": func() lab.Action { return &action.Keepalive{} },
			"revoke":    func() lab.Action { return &action.Revoke{} },

			"member-add":     func() lab.Action { return &action.MemberAdd{} },
			"member-promote": func() lab.Action { return &action.MemberPromote{} },
			"member-remove":  func() lab.Action { return &action.MemberRemove{} },
			"member-update":  func() lab.Action { return &action.MemberUpdate{} },
			"move-leader":    func() lab.Action { return &action.MoveLeader{} },

			"start":       func() lab.Action { return &action.Start{} },
			"stop":        func() lab.Action { return &action.Stop{} },
			"restart":     func() lab.Action { return &action.Restart{} },
			"reconfigure": func() lab.Action { return &action.Reconfigure{} },

			"compact": func() lab.Action { return &action.Compact{} },
			"defrag":  func() lab.Action { return &action.Defrag{} },
			"disarm":  func() lab.Action { return &action.Disarm{} },

			"renew": func() lab.Action { return &action.Renew{} },
			"trust": func() lab.Action { return &action.Trust{} },

			"snapshot":          func() lab.Action { return &action.Snapshot{} },
			"snapshot-save":     func() lab.Action { return &action.SnapshotSave{} },
			"snapshot-verify":   func() lab.Action { return &action.SnapshotVerify{} },
			"snapshot-prune":    func() lab.Action { return &action.SnapshotPrune{} },
			"force-new-cluster": func() lab.Action { return &action.ForceNewCluster{} },

			"restore":         func() lab.Action { return &action.Restore{} },
			"restore-prefix":  func() lab.Action { return &action.RestorePrefix{} },
			"restore-alone":   func() lab.Action { return &action.RestoreAlone{} },
			"recover-quorum":  func() lab.Action { return &action.RecoverQuorum{} },
			"resume":          func() lab.Action { return &action.Resume{} },
			"rollback":        func() lab.Action { return &action.Rollback{} },
			"replace":         func() lab.Action { return &action.Replace{} },
			"grow":            func() lab.Action { return &action.Grow{} },
			"shrink":          func() lab.Action { return &action.Shrink{} },
			"switch":          func() lab.Action { return &action.Switch{} },
			"rolling-restart": func() lab.Action { return &action.RollingRestart{} },
			"defrag-all":      func() lab.Action { return &action.DefragAll{} },
			"free-space":      func() lab.Action { return &action.FreeSpace{} },
			"repair":          func() lab.Action { return &action.Repair{} },
			"rotate":          func() lab.Action { return &action.Rotate{} },
			"upgrade":         func() lab.Action { return &action.Upgrade{} },

			"state-save":    func() lab.Action { return &action.StateSave{} },
			"state-restore": func() lab.Action { return &action.StateRestore{} },
			"state-export":  func() lab.Action { return &action.StateExport{} },
			"state-import":  func() lab.Action { return &action.StateImport{} },
			"state-prune":   func() lab.Action { return &action.StatePrune{} },
			"state-delete":  func() lab.Action { return &action.StateDelete{} },

			"copy":    func() lab.Action { return &action.Copy{} },
			"etcdctl": func() lab.Action { return &action.Etcdctl{} },
			"etcdutl": func() lab.Action { return &action.Etcdutl{} },

			"watch": func() lab.Action { return &action.Watch{} },
			"wait":  func() lab.Action { return &action.Wait{} },
		},
		Break: map[string]func() lab.Fault{
			"crash":      func() lab.Fault { return &fault.Crash{} },
			"stop":       func() lab.Fault { return &fault.Stop{} },
			"pause":      func() lab.Fault { return &fault.Pause{} },
			"power-off":  func() lab.Fault { return &fault.PowerOff{} },
			"clock-step": func() lab.Fault { return &fault.ClockStep{} },
			"fill-disk":  func() lab.Fault { return &fault.FillDisk{} },
			"destroy":    func() lab.Fault { return &fault.Destroy{} },
			"wipe":       func() lab.Fault { return &fault.Wipe{} },

			"cut":      func() lab.Fault { return &fault.Cut{} },
			"slow":     func() lab.Fault { return &fault.Slow{} },
			"throttle": func() lab.Fault { return &fault.Throttle{} },

			"fill":      func() lab.Fault { return &fault.Fill{} },
			"overload":  func() lab.Fault { return &fault.Overload{} },
			"slow-disk": func() lab.Fault { return &fault.SlowDisk{} },
			"fail-disk": func() lab.Fault { return &fault.FailDisk{} },
			"corrupt":   func() lab.Fault { return &fault.Corrupt{} },
			"snapshot":  func() lab.Fault { return &fault.Snapshot{} },
			"state":     func() lab.Fault { return &fault.State{} },
			"take-port": func() lab.Fault { return &fault.TakePort{} },

			"certificate": func() lab.Fault { return &fault.Certificate{} },
			"dns":         func() lab.Fault { return &fault.DNS{} },
		},
		Check: map[string]func() lab.Check{
			"leader": func() lab.Check { return &check.Leader{} },
			"term":   func() lab.Check { return &check.Term{} },
			"quorum": func() lab.Check { return &check.Quorum{} },
			"writes": func() lab.Check { return &check.Writes{} },
			"reads":  func() lab.Check { return &check.Reads{} },
			"value":  func() lab.Check { return &check.Value{} },
			"lease":  func() lab.Check { return &check.Lease{} },
			"watch":  func() lab.Check { return &check.Watch{} },

			"members":  func() lab.Check { return &check.Members{} },
			"listing":  func() lab.Check { return &check.Listing{} },
			"revision": func() lab.Check { return &check.Revision{} },
			"lag":      func() lab.Check { return &check.Lag{} },
			"alarms":   func() lab.Check { return &check.Alarms{} },
			"health":   func() lab.Check { return &check.Health{} },
			"process":  func() lab.Check { return &check.Process{} },
			"snapshot": func() lab.Check { return &check.Snapshot{} },
			"state":    func() lab.Check { return &check.State{} },
			"file":     func() lab.Check { return &check.File{} },

			"handshake":   func() lab.Check { return &check.Handshake{} },
			"certificate": func() lab.Check { return &check.Certificate{} },
			"wiretap":     func() lab.Check { return &check.Wiretap{} },
			"secrets":     func() lab.Check { return &check.Secrets{} },
			"user":        func() lab.Check { return &check.User{} },
		},
	}
}

// Kit returns what the engine needs: the table, eyes of its own, the load and
// the judges. One kit serves any number of labs; its connections end with the
// process, or with the cluster they go to.
func Kit() lab.Kit {
	eyes := &etcd.Observer{}
	return lab.Kit{
		Verbs: All(),
		Look:  eyes.Look,
		Watch: eyes.Watch,
		Final: eyes.Final,
		Load:  load.Start,
		Judge: judge.Judge,
		Machine: func(name string) (lab.Host, error) {
			return nil, fmt.Errorf("host %q: no inventory says where it is", name)
		},
	}
}
