package etcd

import (
	"slices"
	"testing"
)

func TestTelling(t *testing.T) {
	for name, c := range map[string]struct {
		log  string
		want []string
	}{
		"warnings and worse": {
			`{"level":"info","msg":"starting"}
{"level":"warn","msg":"slow"}
{"level":"fatal","msg":"listen failed","error":"address already in use","stacktrace":"main.main\n\tx.go:1"}`,
			[]string{"warn: slow", "fatal: listen failed: address already in use"},
		},
		"a panic without its stack": {
			"{\"level\":\"info\",\"msg\":\"starting\"}\npanic: tocommit(5) is out of range\n\ngoroutine 1 [running]:\nmain.main()\n\t/x.go:3 +0x1\n",
			[]string{"panic: tocommit(5) is out of range"},
		},
		"not etcd at all": {"exec format error\n", []string{"exec format error"}},
		"nothing grave":   {`{"level":"info","msg":"bye"}`, []string{"info: bye"}},
	} {
		if got := telling(c.log); !slices.Equal(got, c.want) {
			t.Errorf("%s: got %q, want %q", name, got, c.want)
		}
	}
}
