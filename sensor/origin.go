package sensor

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"

	"github.com/moby/sys/mountinfo"

	"github.com/contraband-dev/contraband/bpf"
	"github.com/contraband-dev/contraband/internal/sensorapi"
)

// overlay is a container's root file system: the image's layers, topmost
// first, and the container's own on top. All paths are the host's.
type overlay struct {
	lower []string
	upper string
}

// findOverlay finds the overlay with the given device number in the host's mount
// namespace, where runtimes mount it. It does not look in the process's own: what
// is mounted there, and which of the host's paths it names, is the container's to
// choose.
func findOverlay(dev uint64) overlay {
	major, minor := deviceOf(dev)
	only := func(m *mountinfo.Info) (skip, stop bool) {
		hit := m.FSType == "overlay" && m.Major == major && m.Minor == minor
		return !hit, hit
	}
	f, err := os.Open("/proc/1/mountinfo")
	if err != nil {
		f, err = os.Open("/proc/self/mountinfo") // without rights over process 1: ours is the best there is
	}
	if err != nil {
		return overlay{}
	}
	defer f.Close()
	mounts, err := mountinfo.GetMountsFromReader(f, only)
	if err != nil || len(mounts) == 0 {
		return overlay{}
	}
	return parseOverlayOptions(mounts[0].VFSOptions, mounts[0].Mountpoint).below(hostRoot())
}

// hostRoot is where the host's files are from here: below process 1's root when
// the sensor runs in a container, and "" where that may not be entered.
var hostRoot = sync.OnceValue(func() string {
	const root = "/proc/1/root"
	if _, err := os.Stat(root + "/"); err != nil {
		return ""
	}
	return root
})

// below is the same overlay, its directories looked for below a root.
func (o overlay) below(root string) overlay {
	out := overlay{}
	for _, dir := range o.lower {
		out.lower = append(out.lower, root+dir)
	}
	if o.upper != "" {
		out.upper = root + o.upper
	}
	return out
}

// parseOverlayOptions reads both spellings of the layers: "lowerdir=a:b" and,
// since Linux 6.8, "lowerdir+=a,lowerdir+=b". Where an image has many layers the options
// would be too long, and runtimes mount it with relative ones, from their directory of
// layers: containerd's is two above the upper layer, Docker's two above the mount point,
// and there the upper layer is relative too.
func parseOverlayOptions(options, mountpoint string) overlay {
	var o overlay
	for _, option := range strings.Split(options, ",") {
		key, value, _ := strings.Cut(option, "=")
		switch key {
		case "lowerdir":
			o.lower = append(o.lower, strings.Split(value, ":")...)
		case "lowerdir+":
			o.lower = append(o.lower, value)
		case "upperdir":
			o.upper = value
		}
	}
	base := filepath.Dir(filepath.Dir(o.upper))
	if !filepath.IsAbs(o.upper) {
		base = filepath.Dir(filepath.Dir(mountpoint))
	}
	from := func(dir string) string {
		if dir == "" || filepath.IsAbs(dir) {
			return dir
		}
		return filepath.Join(base, dir)
	}
	for i, dir := range o.lower {
		o.lower[i] = from(dir)
	}
	o.upper = from(o.upper)
	return o
}

// openLower opens the image's own file at a path, or fails with fs.ErrNotExist.
func (o overlay) openLower(path string) (*os.File, error) {
	for _, dir := range o.lower {
		f, err := openBeneath(dir, path)
		switch {
		case err == nil:
			return f, nil
		case errors.Is(err, errOtherKind): // a whiteout (character device 0/0) hides what lies below
			return nil, fs.ErrNotExist
		}
	}
	return nil, fs.ErrNotExist
}

var errOtherKind = errors.New("not a regular file")

// openBeneath opens the regular file root+path without following a link out of
// root: the layers are the container's, and so are the links in them.
func openBeneath(root, path string) (*os.File, error) {
	r, err := os.OpenRoot(root)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	path = strings.TrimPrefix(path, "/")
	info, err := r.Lstat(path)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, errOtherKind
	}
	return r.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0) // should it have become a FIFO meanwhile
}

// maxLayerEntries bounds the search for a file of the same bytes.
const maxLayerEntries = 1_000_000

// findSame looks in the image's layers for a file of the given size and hash,
// and returns its path in the image, or "".
func (o overlay) findSame(size int64, sum string) string {
	seen := 0
	for _, dir := range o.lower {
		if !sizes.mayHave(dir, size) {
			continue
		}
		found := ""
		walk := func(path string, d fs.DirEntry, err error) error {
			if seen++; err != nil || seen > maxLayerEntries {
				return fs.SkipAll
			}
			if !d.Type().IsRegular() {
				return nil
			}
			if info, err := d.Info(); err != nil || info.Size() != size {
				return nil
			}
			in := "/" + strings.TrimPrefix(strings.TrimPrefix(path, dir), "/")
			if f, err := openBeneath(dir, in); err == nil {
				defer f.Close()
				if s, err := sumOf(f); err == nil && s == sum {
					found = in
					return fs.SkipAll
				}
			}
			return nil
		}
		if filepath.WalkDir(dir, walk); found != "" {
			return found
		}
	}
	return ""
}

// origin is the verdict on where a program came from.
type origin struct {
	image  bool            // its bytes are the image's own: silent
	route  sensorapi.Route // otherwise
	sameAs string          // a file of the image with the same bytes, under another name
}

// judge decides by content: a file whose bytes are the image's own at the same
// place, or which the kernel says was copied up from the image and still has
// the bytes of one of its files (after a chmod, a touch, a mv), is of the image.
//
// changed says that the file is not in the state in which it ran: then its bytes
// prove nothing.
func judge(e bpf.Event, layers overlay, sum string, changed bool) origin {
	o := origin{route: routeOf(e)}
	if sum == "" || changed || !e.Is(bpf.OnRoot) || e.Is(bpf.UserMount) || e.Links == 0 {
		return o
	}
	if f, err := layers.openLower(e.Path); err == nil {
		defer f.Close()
		if s, err := sumOf(f); err == nil && s == sum {
			return origin{image: true}
		}
	}
	if o.sameAs = layers.findSame(int64(e.Size), sum); o.sameAs != "" && e.Is(bpf.HasLower) {
		return origin{image: true}
	}
	return o
}

func routeOf(e bpf.Event) sensorapi.Route {
	switch {
	case e.Is(bpf.Script):
		return sensorapi.Script
	case e.Is(bpf.Mapped) && isLoader(e.Filename):
		return sensorapi.Loader
	case e.Is(bpf.Mapped):
		return sensorapi.Library
	case !e.Is(bpf.OnOverlay) && strings.HasPrefix(e.Path, "/memfd:"):
		return sensorapi.Memory
	case e.Links == 0 && !isTemporary(e.Path):
		return sensorapi.Deleted
	case !e.Is(bpf.OnOverlay):
		return sensorapi.Volume
	case !e.Is(bpf.OnRoot), e.Is(bpf.UserMount) && !e.Is(bpf.HasUpper):
		return sensorapi.Nested
	case e.Is(bpf.HasLower):
		return sensorapi.Modified
	default:
		return sensorapi.Added
	}
}

// isTemporary recognises a file made with O_TMPFILE, which never had a name: the kernel
// calls it "#" and its inode number.
func isTemporary(path string) bool {
	number, found := strings.CutPrefix(filepath.Base(path), "#")
	return found && number != "" && strings.Trim(number, "0123456789") == ""
}

// isLoader knows the dynamic loaders by their names: ld-linux-x86-64.so.2,
// ld-musl-x86_64.so.1, ld-2.31.so, ld.so.
func isLoader(name string) bool {
	return strings.HasPrefix(name, "ld-") && strings.Contains(name, ".so") || name == "ld.so"
}

func sumOf(r io.Reader) (string, error) {
	h := sha256.New()
	if _, err := io.Copy(h, r); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}
