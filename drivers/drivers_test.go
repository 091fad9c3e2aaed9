package drivers

import (
	"strings"
	"testing"
)

func TestTable(t *testing.T) {
	for _, name := range Names() {
		if d, err := New(name, Options{}); err != nil || d.Name() != name {
			t.Errorf("%s: %v, %v", name, d, err)
		}
	}
	if _, err := New("lokal", Options{}); err == nil || !strings.Contains(err.Error(), "local") {
		t.Errorf("unknown driver: %v, want the known ones named", err)
	}
}
