package lab

import (
	"cmp"
	"fmt"
	"io"
	"strings"
	"time"
)

// Shelled is a verb that can say which commands it amounts to. Every action
// and every fault is one; undo is what heals a fault. Roles stand in the
// commands as <leader>.
type Shelled interface {
	Shell() (do, undo []string)
}

// Plan writes what a drill would do, in order: what is provisioned, every step
// with whom it hits, each fault with its undo, and the commands an operator
// would type. It touches nothing. lacks says why the drill would be skipped,
// nil when it would run.
func Plan(w io.Writer, d *Drill, driver string, lacks []string) {
	p := &printer{w: w}
	p.line("drill    %s: %s", d.Name, d.Title)
	for i, l := range wrap(d.Why, 90) {
		p.line("%-8s %s", map[bool]string{true: "why", false: ""}[i == 0], l)
	}
	s := d.Cluster
	if a := s.Adopt; a != nil {
		p.adopted(a, driver)
	} else {
		p.line("cluster  %d members%s on driver %s, TLS %s%s, heartbeat %s, election %s: quorum %d, %d may be lost", s.Members,
			map[bool]string{true: fmt.Sprintf(" and %d spare hosts", s.Spares)}[s.Spares > 0], driver, s.TLS, map[bool]string{true: ", found by DNS"}[s.ByDNS()], s.Heartbeat, s.Election, Quorum(s.Members), Tolerates(s.Members))
	}
	if d.Load != nil {
		rate := "as fast as they can"
		if d.Load.Rate > 0 {
			rate = fmt.Sprintf("%g/s", d.Load.Rate)
		}
		p.line("load     %d clients, %s, on %d keys; outages seen to %s", d.Load.Clients, rate, d.Load.Keys, d.Load.Probe+d.Load.Backoff)
	}
	for _, l := range lacks {
		p.line("SKIPPED  %s", l)
	}
	if err := d.Refused(); err != nil {
		for _, l := range strings.Split(err.Error(), "\n") {
			p.line("REFUSED  %s", l)
		}
	}
	p.line("")
	p.steps(d.Steps, "", "")
	if d.End.Skip == "" {
		voters := cmp.Or(d.End.Voters, s.Members)
		p.line("end      heal what is left; then %s voters, %d learners, one leader, no alarm, equal hashes",
			map[bool]string{true: fmt.Sprint(voters), false: "as many"}[voters > 0], d.End.Learners)
	} else {
		p.line("end      heal what is left; nothing promised: %s", d.End.Skip)
	}
	for _, e := range d.Promises() {
		p.line("expect   %s%s", e.Text, map[bool]string{true: "  (in every drill)"}[e.Standing])
	}
}

type printer struct{ w io.Writer }

// adopted says what adopting a cluster does to its hosts.
func (p *printer) adopted(a *Adopt, driver string) {
	hosts := "all hosts of the inventory"
	if len(a.Hosts) > 0 {
		hosts = strings.Join(a.Hosts, ", ")
	}
	p.line("cluster  %s, adopted by driver %s: unit %s on %s", a.Name, driver, a.FullUnit(), hosts)
	p.line("         $ systemctl show %s; cat /proc/PID/cmdline /proc/PID/environ; etcdctl member list", a.FullUnit())
	if a.ReadOnly() {
		p.line("         to be looked at: nothing is put on its hosts, nothing written into it")
		return
	}
	p.line("         --i-mean %s: hosts that are marked get an agent with a dead man's switch,", a.Meant)
	p.line("         and as long as the lab is there its unit is not restarted by systemd:")
	p.line("         $ tee /run/systemd/system/%s.d/etcdrill-RUN.conf; systemctl daemon-reload", a.FullUnit())
	p.line("         undo $ rm /run/systemd/system/%s.d/etcdrill-RUN.conf; systemctl daemon-reload; systemctl start %s", a.FullUnit(), a.FullUnit())
	p.line("         undo $ etcdctl del --prefix %s", OwnKeys)
}

func (p *printer) line(format string, args ...any) {
	fmt.Fprintln(p.w, strings.TrimRight(fmt.Sprintf(format, args...), " "))
}

func (p *printer) steps(steps []Step, prefix, indent string) {
	for i := range steps {
		s := &steps[i]
		n := fmt.Sprintf("%s%d", prefix, i+1)
		switch s.Word {
		case "repeat":
			p.line("%4s  %srepeat %d times%s", n, indent, s.Times, why(s))
			p.steps(s.Steps, n+".", indent+"  ")
			continue
		case "parallel":
			p.line("%4s  %sat the same time%s", n, indent, why(s))
			p.steps(s.Steps, n+".", indent+"  ")
			continue
		}
		p.line("%4s  %s%s %s%s%s%s", n, indent, s.Word, s.Verb, named(s), given(s), why(s))
		if sh, ok := s.Args.(Shelled); ok {
			do, undo := sh.Shell()
			for _, c := range do {
				p.line("      %s  $ %s", indent, c)
			}
			for _, c := range undo {
				p.line("      %s  undo $ %s", indent, c)
			}
		}
	}
}

func why(s *Step) string {
	if s.Why == "" {
		return ""
	}
	return "  # " + s.Why
}

func named(s *Step) string {
	if s.As == "" || s.As == s.Verb {
		return ""
	}
	return fmt.Sprintf(" (%s)", s.As)
}

// given lists a step's arguments as they are after defaults.
func given(s *Step) string {
	var out []string
	if s.Args != nil {
		for _, f := range Fields(s.Args) {
			if v := f.String(); v != "" && (v != f.Default || f.Type == "whom") {
				out = append(out, f.Key+"="+v)
			}
		}
	}
	for _, d := range []struct {
		key string
		d   time.Duration
	}{{"within", s.Within}, {"for", s.For}} {
		if d.d > 0 {
			out = append(out, d.key+"="+d.d.String())
		}
	}
	if s.Refused != "" {
		out = append(out, fmt.Sprintf("refused=%q", s.Refused))
	}
	if len(out) == 0 {
		return ""
	}
	return "  " + strings.Join(out, " ")
}

// String is the field's value as one would write it, empty for the zero value.
func (f Field) String() string {
	if f.value.IsZero() {
		return ""
	}
	switch v := f.value.Interface().(type) {
	case Target:
		return Quote([]string{v.Role})
	case time.Duration:
		return v.String()
	case Bytes:
		return v.String()
	case string:
		return Quote([]string{v})
	}
	return fmt.Sprint(f.value.Interface())
}

// String is the size with the largest unit that keeps it whole.
func (b Bytes) String() string {
	for _, u := range []struct {
		name string
		n    Bytes
	}{{"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10}} {
		if b >= u.n && b%u.n == 0 {
			return fmt.Sprintf("%d%s", b/u.n, u.name)
		}
	}
	return fmt.Sprintf("%dB", int64(b))
}

// wrap breaks text into lines of at most n letters.
func wrap(text string, n int) []string {
	var out []string
	line := ""
	for _, w := range strings.Fields(text) {
		if line != "" && len(line)+1+len(w) > n {
			out, line = append(out, line), ""
		}
		if line != "" {
			line += " "
		}
		line += w
	}
	if line != "" {
		out = append(out, line)
	}
	return out
}
