package ssh

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/kevinburke/ssh_config"
)

// aliases answers what the user's ssh configuration says of a host.
type aliases struct {
	given string   // file named by the inventory, as with ssh -F
	files []string // in order of weight
	home  string
}

func newAliases(file string) *aliases {
	home, _ := os.UserHomeDir()
	a := &aliases{given: file, files: []string{file}, home: home}
	if file == "" {
		a.files = []string{filepath.Join(home, ".ssh", "config"), "/etc/ssh/ssh_config"}
	}
	return a
}

// deepest chain of jump hosts that name jump hosts, and of files that include
// files.
const deepest = 8

// login resolves one alias. A name that no file knows is an address.
func (a *aliases) login(alias string) (Login, error) { return a.resolve(alias, 0) }

func (a *aliases) resolve(alias string, depth int) (Login, error) {
	say := func(err error) (Login, error) { return Login{}, fmt.Errorf("ssh alias %s: %w", alias, err) }
	if depth > deepest {
		return say(errors.New("its ProxyJump goes round in circles"))
	}
	all, err := a.lookup(alias)
	if err != nil {
		return say(err)
	}
	get := func(key string) string {
		if v := all(key); len(v) > 0 {
			return v[0]
		}
		return ""
	}
	me, err := user.Current()
	if err != nil {
		return say(err)
	}
	l := Login{Address: alias, Port: 22, User: me.Username, Only: strings.EqualFold(get("IdentitiesOnly"), "yes")}
	if name := get("HostName"); name != "" {
		l.Address = strings.NewReplacer("%h", alias, "%n", alias, "%%", "%").Replace(name)
	}
	if u := get("User"); u != "" {
		l.User = u
	}
	if p := get("Port"); p != "" {
		if l.Port, err = strconv.Atoi(p); err != nil || l.Port < 1 || l.Port > 65535 {
			return say(fmt.Errorf("its Port is %q: expected a number from 1 to 65535", p))
		}
	}
	file := func(s string) string {
		s = strings.NewReplacer("%%", "%", "%d", a.home, "%h", l.Address, "%n", alias, "%p", strconv.Itoa(l.Port),
			"%r", l.User, "%u", me.Username).Replace(s)
		if strings.Contains(s, "${") {
			s = os.Expand(s, os.Getenv)
		}
		return tilde(s)
	}
	for _, id := range all("IdentityFile") {
		if id != "none" {
			l.Identity = append(l.Identity, file(id))
		}
	}
	for _, f := range strings.Fields(get("UserKnownHostsFile")) {
		l.KnownHosts = append(l.KnownHosts, file(f))
	}
	if agent := get("IdentityAgent"); agent != "" && agent != "SSH_AUTH_SOCK" {
		if l.Agent = agent; agent != "none" {
			l.Agent = file(agent)
		}
	}
	if c := get("ProxyCommand"); c != "" && c != "none" {
		return say(errors.New("it uses ProxyCommand, which etcdrill does not run: use ProxyJump, or give the inventory `address` and `jump`"))
	}
	if j := get("ProxyJump"); j != "" && j != "none" {
		if l.Jump, err = a.jumps(j, depth+1); err != nil {
			return say(err)
		}
	}
	return l, nil
}

// jumps resolves a list of jump hosts, [user@]host[:port] with commas between.
// How the first one is reached is up to its own configuration; each further
// one is reached through the one before.
func (a *aliases) jumps(text string, depth int) ([]Login, error) {
	hops, err := parseJump(text)
	if err != nil {
		return nil, err
	}
	var out []Login
	for i, hop := range hops {
		l, err := a.resolve(hop.Address, depth)
		if err != nil {
			return nil, err
		}
		if hop.User != "" {
			l.User = hop.User
		}
		if hop.Port != 0 {
			l.Port = hop.Port
		}
		if i == 0 {
			out = append(out, l.Jump...)
		}
		l.Jump = nil
		out = append(out, l)
	}
	return out, nil
}

// parseJump takes such a list apart. What is not given is zero.
func parseJump(text string) ([]Login, error) {
	var out []Login
	for _, s := range strings.Split(text, ",") {
		l := Login{Address: strings.TrimPrefix(strings.TrimSpace(s), "ssh://")}
		if i := strings.LastIndexByte(l.Address, '@'); i >= 0 {
			l.User, l.Address = l.Address[:i], l.Address[i+1:]
		}
		if i := strings.LastIndexByte(l.Address, ':'); i >= 0 && (strings.Count(l.Address, ":") == 1 || strings.HasPrefix(l.Address, "[") && !strings.HasSuffix(l.Address, "]")) {
			p, err := strconv.Atoi(l.Address[i+1:])
			if err != nil || p < 1 || p > 65535 {
				return nil, fmt.Errorf("%q: expected a port from 1 to 65535 after the colon", s)
			}
			l.Port, l.Address = p, l.Address[:i]
		}
		l.Address = strings.TrimSuffix(strings.TrimPrefix(l.Address, "["), "]")
		if !validAddress.MatchString(l.Address) || l.User != "" && !validUser.MatchString(l.User) {
			return nil, fmt.Errorf("%q: expected [user@]host[:port]", s)
		}
		out = append(out, l)
	}
	return out, nil
}

// lookup returns all values of a keyword for an alias, those that weigh most
// first. Configurations with Match are read by ssh itself, which alone knows
// all its forms; the library takes some of them for others.
func (a *aliases) lookup(alias string) (func(key string) []string, error) {
	for _, f := range a.files {
		at, err := findMatch(f, a.home, 0)
		if err != nil {
			return nil, err
		}
		if at != "" {
			return a.ask(alias, at)
		}
	}
	var configs []*ssh_config.Config
	for _, f := range a.files {
		src, err := os.ReadFile(f)
		if errors.Is(err, fs.ErrNotExist) && a.given == "" {
			continue
		}
		if err != nil {
			return nil, err
		}
		c, err := ssh_config.DecodeBytes(src)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", f, err)
		}
		configs = append(configs, c)
	}
	return func(key string) (out []string) {
		for _, c := range configs {
			values, _ := c.GetAll(alias, key)
			out = append(out, values...)
		}
		return out
	}, nil
}

// findMatch says where a configuration file, or one that it includes, has a
// Match that asks for more than "all".
func findMatch(file, home string, depth int) (at string, err error) {
	src, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil // who reads it says what is missing
	}
	if err != nil {
		return "", err
	}
	if depth > deepest {
		return "", fmt.Errorf("%s: its Include goes round in circles", file)
	}
	lines := bufio.NewScanner(bytes.NewReader(src))
	for n := 1; lines.Scan(); n++ {
		words := strings.FieldsFunc(lines.Text(), func(r rune) bool { return strings.ContainsRune(" \t=\"", r) })
		if len(words) < 2 {
			continue
		}
		switch strings.ToLower(words[0]) {
		case "match":
			if len(words) != 2 || !strings.EqualFold(words[1], "all") {
				return fmt.Sprintf("%s:%d", file, n), nil
			}
		case "include":
			for _, pattern := range words[1:] {
				if pattern = tilde(pattern); !filepath.IsAbs(pattern) {
					base := filepath.Join(home, ".ssh")
					if strings.HasPrefix(file, "/etc/ssh") {
						base = "/etc/ssh"
					}
					pattern = filepath.Join(base, pattern)
				}
				files, err := filepath.Glob(pattern)
				if err != nil {
					return "", fmt.Errorf("%s:%d: %w", file, n, err)
				}
				for _, f := range files {
					if at, err := findMatch(f, home, depth+1); at != "" || err != nil {
						return at, err
					}
				}
			}
		}
	}
	return "", lines.Err()
}

// ask lets ssh say what it would do.
func (a *aliases) ask(alias, at string) (func(key string) []string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second) // Match exec may run anything
	defer cancel()
	argv := []string{"-G"}
	if a.given != "" {
		argv = append(argv, "-F", a.given)
	}
	cmd := exec.CommandContext(ctx, "ssh", append(argv, "--", alias)...)
	cmd.WaitDelay = time.Second
	out, err := cmd.Output()
	var exit *exec.ExitError
	switch {
	case errors.Is(err, exec.ErrNotFound):
		return nil, fmt.Errorf("%s: Match needs the ssh command to be understood, and there is none on this machine: install it, or give the inventory `address`, `user` and `port`", at)
	case ctx.Err() != nil:
		return nil, fmt.Errorf("%s: ssh -G took too long: look at the command behind Match exec", at)
	case errors.As(err, &exit):
		return nil, fmt.Errorf("%s: ssh -G: %s", at, strings.TrimSpace(string(exit.Stderr)))
	case err != nil:
		return nil, fmt.Errorf("%s: ssh -G: %w", at, err)
	}
	values := map[string][]string{}
	for line := range strings.Lines(string(out)) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		values[key] = append(values[key], value)
	}
	return func(key string) []string { return values[strings.ToLower(key)] }, nil
}
