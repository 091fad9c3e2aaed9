package etcd

import "testing"

func TestMisses(t *testing.T) {
	a, b, c, d := Seen{"a", 2, false}, Seen{"b", 3, false}, Seen{"a", 3, true}, Seen{"a", 9, false}
	truth := []Seen{a, b, c}
	for _, x := range []struct {
		name string
		got  []Seen
		ok   bool
	}{
		{"all", []Seen{a, b, c}, true},
		{"not yet all", []Seen{a, b}, true},
		{"nothing yet", nil, true},
		{"and one that came after the question", []Seen{a, b, c, d}, true},
		{"one left out", []Seen{a, c}, false},
		{"the first left out", []Seen{b, c}, false},
		{"twice", []Seen{a, a, b, c}, false},
		{"the last one twice", []Seen{a, b, c, c}, false},
		{"out of order", []Seen{a, c, b}, false},
		{"a put where there was a deletion", []Seen{a, b, {"a", 3, false}}, false},
		{"another revision", []Seen{{"a", 1, false}, b, c}, false},
		{"one left out, and a later one", []Seen{a, b, d}, false},
	} {
		if f := misses(x.got, truth, 5); (f == nil) != x.ok {
			t.Errorf("%s: %v", x.name, f)
		}
	}
}
