// Package scenarios holds the drills that come with etcdrill, one YAML file per
// drill, in one folder per family. They are part of the binary.
package scenarios

import (
	"embed"
	"fmt"
	"io/fs"
	"path"
	"sort"
	"strings"
)

//go:embed */*.yaml
var files embed.FS

// File is a drill file that comes with etcdrill.
type File struct {
	Name   string // the drill's name, which is the file's
	Family string // its folder
	Path   string // such as "quorum/leader-kill.yaml"
	Source []byte
}

// All lists the shipped drills by family and name.
func All() []File {
	paths, err := fs.Glob(files, "*/*.yaml")
	if err != nil {
		panic(err) // the pattern above is wrong
	}
	sort.Strings(paths)
	var out []File
	for _, p := range paths {
		src, err := files.ReadFile(p)
		if err != nil {
			panic(err) // embedded, so it is there
		}
		out = append(out, File{Name: strings.TrimSuffix(path.Base(p), ".yaml"), Family: path.Dir(p), Path: p, Source: src})
	}
	return out
}

// Find returns the shipped drill of that name.
func Find(name string) (File, error) {
	for _, f := range All() {
		if f.Name == name {
			return f, nil
		}
	}
	return File{}, fmt.Errorf("no shipped drill is named %q: %w", name, fs.ErrNotExist)
}
