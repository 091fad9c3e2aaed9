// Package place says where the local side of labs lies, and how labs may be
// named, for all drivers alike.
package place

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
)

// Root is the directory under which labs live: given, else $ETCDRILL_HOME, else
// $XDG_STATE_HOME/etcdrill, else ~/.local/state/etcdrill.
func Root(given string) (string, error) {
	switch home, herr := os.UserHomeDir(); {
	case given != "":
		return filepath.Abs(given)
	case os.Getenv("ETCDRILL_HOME") != "":
		return filepath.Abs(os.Getenv("ETCDRILL_HOME"))
	case filepath.IsAbs(os.Getenv("XDG_STATE_HOME")):
		return filepath.Join(os.Getenv("XDG_STATE_HOME"), "etcdrill"), nil
	case herr != nil:
		return "", fmt.Errorf("no place for labs: set ETCDRILL_HOME: %w", herr)
	default:
		return filepath.Join(home, ".local", "state", "etcdrill"), nil
	}
}

var validID = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.-]{0,99}$`)

// CheckID refuses names of labs that are not one plain path element and part of
// the name of a unit or a container.
func CheckID(id string) error {
	if !validID.MatchString(id) {
		return fmt.Errorf("lab %q: expected letters, digits, dots and dashes, at most 100", id)
	}
	return nil
}
