package sensor

import (
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
)

// sizes of the layers of the images that something foreign ran in. A layer never changes,
// and a program that is not of the image seldom has the size of a file that is: then no
// layer is searched.
var sizes sizeIndex

// sizeIndex knows whether a layer has a file of a size. The zero value is ready.
type sizeIndex struct {
	mu     sync.Mutex
	layers map[layer]*layerSizes
	order  []layer // oldest first
}

// layer is a directory, and no later one of its name.
type layer struct {
	dir      string
	dev, ino uint64
}

type layerSizes struct {
	once  sync.Once
	known []int64 // sorted; nil: not known
}

// maxLayers is how many layers are remembered. An image of sixty thousand files takes
// some 200 KB.
const maxLayers = 64

func (x *sizeIndex) mayHave(dir string, size int64) bool {
	info, err := os.Stat(dir)
	if err != nil {
		return true // whoever looks will see
	}
	st := info.Sys().(*syscall.Stat_t)
	l := x.of(layer{dir, st.Dev, st.Ino})
	l.once.Do(func() { l.known = sizesBelow(dir) })
	if l.known == nil {
		return true
	}
	_, found := slices.BinarySearch(l.known, size)
	return found
}

func (x *sizeIndex) of(key layer) *layerSizes {
	x.mu.Lock()
	defer x.mu.Unlock()
	if l := x.layers[key]; l != nil {
		return l
	}
	if x.layers == nil {
		x.layers = map[layer]*layerSizes{}
	}
	if len(x.order) == maxLayers {
		delete(x.layers, x.order[0])
		x.order = x.order[1:]
	}
	l := &layerSizes{}
	x.layers[key], x.order = l, append(x.order, key)
	return l
}

// sizesBelow are those of the regular files below dir, or nil where they cannot all be
// known.
func sizesBelow(dir string) []int64 {
	have := map[int64]struct{}{}
	seen := 0
	err := filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if seen++; seen > maxLayerEntries {
			return fs.ErrInvalid
		}
		if d.Type().IsRegular() {
			info, err := d.Info()
			if err != nil {
				return err
			}
			have[info.Size()] = struct{}{}
		}
		return nil
	})
	if err != nil {
		return nil
	}
	known := make([]int64, 0, len(have))
	for size := range have {
		known = append(known, size)
	}
	slices.Sort(known)
	return known
}
