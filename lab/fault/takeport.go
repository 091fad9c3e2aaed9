package fault

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/etcdrill/etcdrill/lab"
)

// TakePort lets a stranger have a member's port while the member is down: when
// it is started again it finds its address in use and exits. The stranger is a
// TCP gateway to nowhere, `etcd gateway`: it accepts connections, closes them
// and speaks no etcd, so that no client mistakes it for the member.
type TakePort struct {
	Member lab.Target `need:"yes" doc:"whose process is killed and whose port is taken"`
	Port   string     `default:"client" doc:"client or peer"`
}

// Doc says what the fault does.
func (*TakePort) Doc() string {
	return "kill a member and let a stranger take its port; healing gives the port back and starts it"
}

// Needs lists the abilities it must have.
func (*TakePort) Needs() []lab.Cap { return []lab.Cap{lab.CapSignal} }

// Valid refuses arguments that cannot be.
func (f *TakePort) Valid() error { return oneOf("port", f.Port, "client", "peer") }

// Shell shows the commands it amounts to.
func (f *TakePort) Shell() (do, undo []string) {
	port := map[string]string{"client": "2379", "peer": "2380"}[f.Port]
	stranger := "etcd gateway start --listen-addr=127.0.0.1:" + port + " --endpoints=127.0.0.1:1"
	return operator(f.Member, "systemctl kill --signal=KILL etcd", stranger+" &"),
		operator(f.Member, "pkill -KILL -f '"+stranger+"'", "systemctl start etcd")
}

// address is where the member listens.
func (f *TakePort) address(m *lab.Member) (string, error) {
	if f.Port == "client" {
		return hostPort(m.LocalURL)
	}
	if m.PeerBind != "" {
		return hostPort(m.PeerBind)
	}
	return hostPort(m.PeerURL)
}

// argv is the stranger. By it, it is found again. It is not to look for its
// endpoint again and say that it is not there: nobody may listen any more.
func (f *TakePort) argv(m *lab.Member) ([]string, string, error) {
	addr, err := f.address(m)
	if err != nil {
		return nil, "", err
	}
	return []string{m.Bin + "/etcd", "gateway", "start", "--listen-addr=" + addr, "--endpoints=127.0.0.1:1", "--retry-delay=9999h"}, addr, nil
}

// Inject kills and lets the stranger in.
func (f *TakePort) Inject(ctx context.Context, e *lab.Env) error {
	ms, err := seats(e, f.Member)
	if err != nil {
		return err
	}
	for _, m := range ms {
		argv, addr, err := f.argv(m)
		if err != nil {
			return err
		}
		if err := kill(ctx, e, m); err != nil {
			return err
		}
		// The stranger outlives this step, and ends when Heal kills it. What
		// does not stay was refused: the proof will see that nobody listens.
		ended := make(chan error, 1)
		lasting := context.WithoutCancel(ctx)
		go func() {
			_, err := m.Host.Run(lasting, lab.Cmd{Argv: argv})
			ended <- err
		}()
		err = lab.Until(ctx, "a stranger at "+addr, func(ctx context.Context) error {
			select {
			case err := <-ended:
				return fmt.Errorf("it ended: %w", err)
			default:
				return listens(ctx, m.Host, "tcp://"+addr)
			}
		})
		if err != nil {
			return fmt.Errorf("%s: %w", m.Name, err)
		}
		e.Note(m.Name, "%s took %s", lab.Quote(argv), addr)
	}
	return nil
}

// strangers are the process ids of strangers on a member's host.
func (f *TakePort) strangers(ctx context.Context, m *lab.Member) ([]int, error) {
	argv, _, err := f.argv(m)
	if err != nil {
		return nil, err
	}
	// All of POSIX, so that it works on any host.
	out, err := m.Host.Run(ctx, lab.Cmd{Argv: []string{"ps", "-A", "-ww", "-o", "pid=", "-o", "args="}})
	if err != nil {
		return nil, fmt.Errorf("processes of %s: %w", m.Name, err)
	}
	var pids []int
	for line := range strings.Lines(string(out.Stdout)) {
		pid, args, _ := strings.Cut(strings.TrimSpace(line), " ")
		// The whole command line: the same words are in nobody else's.
		if strings.TrimSpace(args) != strings.Join(argv, " ") {
			continue
		}
		if n, err := strconv.Atoi(pid); err == nil && n > 1 {
			pids = append(pids, n)
		}
	}
	return pids, nil
}

// Prove wants the member down, a stranger's process, and somebody at the port.
func (f *TakePort) Prove(ctx context.Context, e *lab.Env) (lab.Proof, error) {
	ms, err := seats(e, f.Member)
	if err != nil {
		return lab.Proof{}, err
	}
	var bites, gone, unclear []string
	for _, m := range ms {
		addr, err := f.address(m)
		if err != nil {
			return lab.Proof{}, err
		}
		st, err := m.Proc.State(ctx)
		if err != nil {
			return lab.Proof{}, fmt.Errorf("process of %s: %w", m.Name, err)
		}
		pids, err := f.strangers(ctx, m)
		if err != nil {
			return lab.Proof{}, err
		}
		if len(pids) > 0 {
			if err := listens(ctx, m.Host, "tcp://"+addr); err == nil && !st.Running {
				bites = append(bites, fmt.Sprintf("%s does not run (%s), process %d is at its %s port %s", m.Name, st.Exit, pids[0], f.Port, addr))
			} else {
				unclear = append(unclear, fmt.Sprintf("%s runs: %v; a stranger runs as process %d; %s: %v", m.Name, st.Running, pids[0], addr, err))
			}
			continue
		}
		p, err := away(ctx, e, []*lab.Member{m})
		if err != nil {
			return p, err
		}
		if p.State == lab.Gone {
			gone = append(gone, p.Evidence)
		} else {
			unclear = append(unclear, "no stranger is at its port; "+p.Evidence)
		}
	}
	return verdict(len(ms), bites, gone, unclear), nil
}

// Heal ends the strangers, waits until the ports are free and starts who is
// down and still a member.
func (f *TakePort) Heal(ctx context.Context, e *lab.Env) error {
	return mend(ctx, e, f.Member, func(m *lab.Member) error {
		pids, err := f.strangers(ctx, m)
		if err != nil || len(pids) == 0 {
			return err
		}
		for _, pid := range pids {
			if _, err := e.Run(ctx, m.Host, lab.Cmd{Argv: []string{"kill", "-KILL", strconv.Itoa(pid)}}); err != nil {
				if exit := (*lab.ExitError)(nil); !errors.As(err, &exit) { // it has ended by itself
					return err
				}
			}
		}
		bound, cancel := context.WithTimeout(ctx, 5*time.Second)
		defer cancel()
		return lab.Until(bound, "its port to be free", func(ctx context.Context) error {
			pids, err := f.strangers(ctx, m)
			if err == nil && len(pids) > 0 {
				err = fmt.Errorf("process %d is still there", pids[0])
			}
			return err
		})
	})
}
