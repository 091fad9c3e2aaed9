package check

import (
	"bytes"
	"context"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/etcdrill/etcdrill/lab"
	"github.com/etcdrill/etcdrill/lab/etcd"
)

// Health asks a member's own health endpoint.
type Health struct {
	Member lab.Target `need:"yes" doc:"the members"`
	Path   string     `default:"readyz" doc:"livez, readyz or health"`
	Status int        `doc:"the HTTP status it answers with; 200 when neither this nor says is given"`
	Says   string     `doc:"text in the verbose answer, such as [-]linearizable_read"`
}

// Valid implements the check of arguments.
func (h *Health) Valid() error {
	if !slices.Contains([]string{"livez", "readyz", "health"}, h.Path) {
		return fmt.Errorf("path: %q: expected livez, readyz or health", h.Path)
	}
	if h.Status != 0 && (h.Status < 100 || h.Status > 599) {
		return fmt.Errorf("status: %d: expected an HTTP status such as 200 or 503", h.Status)
	}
	return nil
}

// Doc implements lab.Check.
func (*Health) Doc() string { return "asks a member's own /livez, /readyz or /health" }

// Holds implements lab.Check.
func (h *Health) Holds(ctx context.Context, e *lab.Env) error {
	seats, err := etcd.Seats(e.Cluster, h.Member)
	if err != nil {
		return err
	}
	want := h.Status
	if want == 0 && h.Says == "" {
		want = 200
	}
	for _, m := range seats {
		code, body, err := etcd.Health(ctx, m, "/"+h.Path+"?verbose")
		if err != nil {
			return fmt.Errorf("could not look: %w", err)
		}
		body = strings.TrimSpace(body)
		if want != 0 && code != want {
			return &lab.Failure{What: fmt.Sprintf("/%s of %s", h.Path, m.Name), Want: fmt.Sprint(want), Got: fmt.Sprintf("%d: %s", code, body)}
		}
		if !strings.Contains(body, h.Says) {
			return &lab.Failure{What: fmt.Sprintf("/%s of %s", h.Path, m.Name), Want: fmt.Sprintf("%q", h.Says), Got: body}
		}
	}
	return nil
}

// Process asks about a member's process.
type Process struct {
	Member  lab.Target `need:"yes" doc:"the members"`
	Running string     `doc:"true or false"`
	Log     string     `doc:"regular expression that matches a line it has printed since it was last started"`
	Ever    bool       `doc:"log: also what it printed in earlier lives"`
	Exit    string     `doc:"regular expression for how it ended, such as killed or exit 2"`
}

// Valid implements the check of arguments.
func (p *Process) Valid() error {
	running, given, err := asked(p.Running)
	if err != nil {
		return fmt.Errorf("running: %w", err)
	}
	for word, re := range map[string]string{"log": p.Log, "exit": p.Exit} {
		if _, err := regexp.Compile(re); err != nil {
			return fmt.Errorf("%s: %w", word, err)
		}
	}
	switch {
	case !given && p.Log == "" && p.Exit == "":
		return fmt.Errorf("expected running, log or exit")
	case running && p.Exit != "":
		return fmt.Errorf("running: true and exit: expected one of them")
	case p.Ever && p.Log == "":
		return fmt.Errorf("ever: expected with log")
	}
	return nil
}

// Doc implements lab.Check.
func (*Process) Doc() string {
	return "asks whether a member's process runs, what it printed, and how it ended"
}

// tail is how much of a log is looked at.
const tail = 4 << 20

// began is what etcd prints first in every life.
var began = []byte(`"msg":"Running: "`)

// Holds implements lab.Check.
func (p *Process) Holds(ctx context.Context, e *lab.Env) error {
	seats, err := etcd.Seats(e.Cluster, p.Member)
	if err != nil {
		return err
	}
	for _, m := range seats {
		st, err := m.Proc.State(ctx)
		if err != nil {
			return fmt.Errorf("could not look: %w", err)
		}
		if want, given, _ := asked(p.Running); given && want != st.Running {
			return &lab.Failure{What: "process of " + m.Name, Want: life(lab.ProcState{Running: want}), Got: life(st)}
		}
		if p.Exit != "" {
			if st.Running {
				return &lab.Failure{What: "process of " + m.Name, Want: "ended: " + p.Exit, Got: life(st)}
			}
			if !regexp.MustCompile(p.Exit).MatchString(st.Exit) {
				return &lab.Failure{What: "end of " + m.Name, Want: p.Exit, Got: st.Exit}
			}
		}
		if p.Log == "" {
			continue
		}
		log, err := m.Proc.Log(ctx, tail)
		if err != nil {
			return fmt.Errorf("could not look: %w", err)
		}
		if at := bytes.LastIndex(log, began); at >= 0 && !p.Ever {
			log = log[at:]
		}
		re := regexp.MustCompile("(?m)" + p.Log)
		if !re.Match(log) {
			return &lab.Failure{What: "log of " + m.Name, Want: p.Log, Got: fmt.Sprintf("no such line, %s", last(log))}
		}
	}
	return nil
}

func life(st lab.ProcState) string {
	switch {
	case st.Running && st.PID != 0:
		return fmt.Sprintf("running, pid %d", st.PID)
	case st.Running:
		return "running"
	case st.Exit != "":
		return "ended: " + st.Exit
	}
	return "ended"
}

func last(log []byte) string {
	lines := bytes.Split(bytes.TrimSpace(log), []byte("\n"))
	return fmt.Sprintf("the last of %d is: %.200s", len(lines), lines[len(lines)-1])
}
