package docker

import (
	"archive/tar"
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"debug/elf"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/build"
	"github.com/moby/moby/api/types/image"
	"github.com/moby/moby/api/types/jsonstream"
	"github.com/moby/moby/client"

	"github.com/etcdrill/etcdrill/fixtures/node"
)

// The image of a host has two parts: the node, which is made once and takes a
// minute, and on it a layer with the etcdrill binary, which takes a second.
// That layer, rather than a copy into each container, since it is made once
// for all hosts of all labs, and a host can be asked as soon as it runs.
const (
	repository = "etcdrill-node"
	labelImage = "io.etcdrill.image" // partNode or partBinary
	partNode   = "node"
	partBinary = "binary"
)

// How many images of each part are kept. Whoever builds etcdrill anew gets one
// each time.
const (
	recentNodes    = 2
	recentBinaries = 4
)

// registryPatience is how long a registry may take to say that it has an
// image, before the image is made without one.
const registryPatience = 10 * time.Second

// image returns the name of the image for hosts. It makes what is not there.
func (d *Driver) image(ctx context.Context) (string, error) {
	version, err := d.engine.ServerVersion(ctx, client.ServerVersionOptions{})
	if err != nil {
		return "", err
	}
	path, err := d.binary()
	if err != nil {
		return "", err
	}
	if err := runsOn(path, version.Arch); err != nil {
		return "", err
	}
	sum, err := hashFile(path)
	if err != nil {
		return "", err
	}
	base := repository + ":" + node.Hash()
	name := base + "-" + sum
	if there, err := d.hasImage(ctx, name); there || err != nil {
		return name, err
	}
	one, err := d.imageLock(ctx)
	if err != nil {
		return "", err
	}
	free, err := lock(ctx, one, "another process that makes the node image")
	if err != nil {
		return "", err
	}
	defer free()
	if there, err := d.hasImage(ctx, name); there || err != nil {
		return name, err
	}
	if there, err := d.hasImage(ctx, base); err != nil {
		return "", err
	} else if !there {
		if err := d.makeNode(ctx, base, version.Arch); err != nil {
			return "", fmt.Errorf("node image: %w", err)
		}
	}
	if err := d.addBinary(ctx, base, name, path); err != nil {
		return "", fmt.Errorf("node image: adding %s: %w", path, err)
	}
	d.forget(ctx, partBinary, recentBinaries)
	d.forget(ctx, partNode, recentNodes)
	return name, nil
}

// imageLock is the file whose lock is for who makes images in the engine. It is
// the same for all labs of this user, wherever they keep their local side, and
// another one for another engine.
func (d *Driver) imageLock(ctx context.Context) (string, error) {
	engine, err := d.engine.Info(ctx, client.InfoOptions{})
	if err != nil {
		return "", err
	}
	dir := d.root
	if cache, err := os.UserCacheDir(); err == nil {
		dir = filepath.Join(cache, "etcdrill")
	}
	// An engine's id is anything that it likes.
	sum := sha256.Sum256([]byte(engine.Info.ID))
	return filepath.Join(dir, "engine-"+hex.EncodeToString(sum[:6])+".lock"), os.MkdirAll(dir, 0o700)
}

// imaginable tells why there cannot be an image for hosts, nil when there is
// one or it can be made.
func (d *Driver) imaginable(ctx context.Context) error {
	for _, name := range []string{repository + ":" + node.Hash(), node.Base} {
		if there, err := d.hasImage(ctx, name); there || err != nil {
			return err
		}
	}
	if _, err := exec.LookPath(node.Bootstrap("")[0]); err == nil {
		return nil
	}
	if err := d.askRegistry(ctx); err != nil {
		return fmt.Errorf("no image for hosts, and no way to make one: %s cannot be pulled (%w) and mmdebstrap is not installed", node.Base, err)
	}
	return nil
}

func (d *Driver) hasImage(ctx context.Context, name string) (bool, error) {
	_, err := d.engine.ImageInspect(ctx, name)
	if errdefs.IsNotFound(err) {
		return false, nil
	}
	return err == nil, err
}

// binary is the executable to put on hosts.
func (d *Driver) binary() (string, error) {
	if d.options.Binary != "" {
		return d.options.Binary, nil
	}
	return os.Executable()
}

// machines are the processors of Linux executables, by Go's names.
var machines = map[string]elf.Machine{
	"amd64": elf.EM_X86_64, "arm64": elf.EM_AARCH64, "arm": elf.EM_ARM, "386": elf.EM_386,
	"ppc64le": elf.EM_PPC64, "riscv64": elf.EM_RISCV, "s390x": elf.EM_S390,
}

// runsOn refuses an executable that is not one for Linux on that processor.
func runsOn(path, goarch string) error {
	is := "no Linux executable"
	f, err := elf.Open(path)
	if err == nil {
		defer f.Close()
		if f.Machine == machines[goarch] {
			return nil
		}
		is = "for another processor, " + f.Machine.String()
	} else if !errors.As(err, new(*elf.FormatError)) && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		return err
	}
	return fmt.Errorf("%s is %s; the engine's hosts need one for linux/%s: build it (CGO_ENABLED=0 GOOS=linux GOARCH=%s go build ./cmd/etcdrill) and name it in ETCDRILL_BINARY", path, is, goarch, goarch)
}

func hashFile(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)[:6]), nil
}

// makeNode makes the node image: from Debian's image where a registry has it,
// else from Debian's packages.
func (d *Driver) makeNode(ctx context.Context, name, goarch string) error {
	d.say("making the node image %s, once; this takes a minute or more", name)
	berr := d.buildNode(ctx, name)
	if berr == nil || ctx.Err() != nil {
		return berr
	}
	d.say("no node image from %s (%s): trying mmdebstrap", node.Base, berr)
	ierr := d.importNode(ctx, name, goarch)
	if ierr == nil || ctx.Err() != nil {
		return ierr
	}
	return fmt.Errorf("it can be made in two ways and both failed: from the image %s: %w; from Debian's packages: %w. "+
		"Let the engine pull that image (docker pull %s), or install mmdebstrap (apt-get install mmdebstrap) and run as root",
		node.Base, berr, ierr, node.Base)
}

func (d *Driver) buildNode(ctx context.Context, name string) error {
	there, err := d.hasImage(ctx, node.Base)
	if err != nil {
		return err
	}
	if !there {
		if err := d.askRegistry(ctx); err != nil {
			return err
		}
		pull, err := d.engine.ImagePull(ctx, node.Base, client.ImagePullOptions{})
		if err != nil {
			return err
		}
		if err := pull.Wait(ctx); err != nil {
			return err
		}
	}
	return d.build(ctx, name, partNode, func(w *tar.Writer) error {
		return addBytes(w, "Dockerfile", []byte(node.Dockerfile()))
	})
}

// askRegistry asks whether the image to build on can be pulled.
func (d *Driver) askRegistry(ctx context.Context) error {
	short, cancel := context.WithTimeout(ctx, registryPatience)
	defer cancel()
	_, err := d.engine.DistributionInspect(short, node.Base, client.DistributionInspectOptions{})
	if short.Err() != nil && ctx.Err() == nil {
		return fmt.Errorf("no registry answered within %s", registryPatience)
	}
	return err
}

func (d *Driver) importNode(ctx context.Context, name, goarch string) error {
	arch, err := node.Arch(goarch)
	if err != nil {
		return err
	}
	argv := node.Bootstrap(arch, sources("/etc")...)
	if _, err := exec.LookPath(argv[0]); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	rootfs, w := io.Pipe()
	var stderr tail
	cmd.Stdout, cmd.Stderr = w, &stderr
	// In a group of its own, since it hangs up on its whole group when it
	// fails; and ended politely, since it has mounts to undo.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) }
	cmd.WaitDelay = time.Minute
	if err := cmd.Start(); err != nil {
		return err
	}
	made := make(chan error, 1)
	go func() {
		err := cmd.Wait()
		if err != nil {
			err = fmt.Errorf("mmdebstrap: %w: %s", err, lastLines(stderr.String(), 3))
		}
		w.CloseWithError(err) // an archive that breaks off is refused; one that ends too early is not
		made <- err
	}()
	id, err := d.importTar(ctx, rootfs)
	rootfs.CloseWithError(err)
	if err != nil {
		cancel()
	}
	if merr := <-made; merr != nil {
		return merr
	}
	if err != nil {
		return err
	}
	_, err = d.engine.ImageTag(ctx, client.ImageTagOptions{Source: id, Target: name})
	return err
}

func (d *Driver) importTar(ctx context.Context, rootfs io.Reader) (id string, err error) {
	changes := append(node.Config(), fmt.Sprintf("LABEL %s=%s", labelImage, partNode))
	resp, err := d.engine.ImageImport(ctx, client.ImageImportSource{Source: rootfs, SourceName: "-"}, "", client.ImageImportOptions{
		Message: "root filesystem of an etcdrill host", Changes: changes,
	})
	if err != nil {
		return "", err
	}
	defer resp.Close()
	return follow(resp)
}

// sources are the package sources of this machine, when it is a Debian of the
// same release as the node: a mirror or a proxy of its place may be in them.
func sources(etc string) []string {
	release, err := os.ReadFile(filepath.Join(etc, "os-release"))
	lines := strings.Split(string(release), "\n")
	if err != nil || !slices.Contains(lines, "ID=debian") || !slices.Contains(lines, "VERSION_CODENAME="+node.Suite) {
		return nil
	}
	var out []string
	for _, name := range []string{"apt/sources.list", "apt/sources.list.d/debian.sources"} {
		path := filepath.Join(etc, name)
		if data, err := os.ReadFile(path); err == nil && bytes.Contains(data, []byte(node.Suite)) {
			out = append(out, path)
		}
	}
	return out
}

// addBinary makes an image of another one and the binary.
func (d *Driver) addBinary(ctx context.Context, base, name, path string) error {
	return d.build(ctx, name, partBinary, func(w *tar.Writer) error {
		dockerfile := fmt.Sprintf("FROM %s\nCOPY %s %s\n", base, filepath.Base(executable), executable)
		if err := addBytes(w, "Dockerfile", []byte(dockerfile)); err != nil {
			return err
		}
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		defer f.Close()
		info, err := f.Stat()
		if err != nil {
			return err
		}
		if err := w.WriteHeader(&tar.Header{Name: filepath.Base(executable), Mode: 0o755, Size: info.Size()}); err != nil {
			return err
		}
		_, err = io.Copy(w, f)
		return err
	})
}

func addBytes(w *tar.Writer, name string, data []byte) error {
	if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(data))}); err != nil {
		return err
	}
	_, err := w.Write(data)
	return err
}

// build has the engine build an image from what fill writes.
func (d *Driver) build(ctx context.Context, name, part string, fill func(*tar.Writer) error) error {
	r, w := io.Pipe()
	defer r.Close()
	go func() {
		t := tar.NewWriter(w)
		err := fill(t)
		if err == nil {
			err = t.Close()
		}
		w.CloseWithError(err)
	}()
	// The classic builder: it needs no session beside the request, and knows
	// the images that were imported.
	resp, err := d.engine.ImageBuild(ctx, r, client.ImageBuildOptions{
		Version: build.BuilderV1, Tags: []string{name}, Labels: map[string]string{labelImage: part},
		Remove: true, ForceRemove: true,
	})
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	_, err = follow(resp.Body)
	return err
}

// follow reads what an engine says while it makes an image, up to its end: the
// last status, or why it failed with the last lines of output.
func follow(r io.Reader) (status string, err error) {
	var said tail
	for dec := json.NewDecoder(r); ; {
		var m jsonstream.Message
		switch err := dec.Decode(&m); {
		case errors.Is(err, io.EOF):
			return status, nil
		case err != nil:
			return status, err
		case m.Error != nil:
			return status, fmt.Errorf("%s: %s", m.Error.Message, lastLines(said.String(), 3))
		}
		io.WriteString(&said, m.Stream)
		if m.Status != "" {
			status = m.Status
		}
	}
}

// lastLines joins the last lines of a text that say something.
func lastLines(text string, n int) string {
	lines := slices.DeleteFunc(strings.Split(text, "\n"), func(l string) bool { return strings.TrimSpace(l) == "" })
	return strings.Join(lines[max(0, len(lines)-n):], "; ")
}

// forget removes all but the latest images of a part. An image that is in use
// stays, by the engine's own rules.
func (d *Driver) forget(ctx context.Context, part string, recent int) {
	list, err := d.engine.ImageList(ctx, client.ImageListOptions{
		Filters: make(client.Filters).Add("label", labelImage+"="+part),
	})
	if err != nil {
		return // they are found the next time
	}
	images := list.Items
	slices.SortFunc(images, func(a, b image.Summary) int { return cmp.Compare(b.Created, a.Created) })
	for _, i := range images[min(recent, len(images)):] {
		for _, tag := range i.RepoTags {
			d.engine.ImageRemove(ctx, tag, client.ImageRemoveOptions{PruneChildren: true})
		}
	}
}
