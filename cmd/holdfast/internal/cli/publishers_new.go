package cli

import (
	"bytes"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/holdfast-edge/holdfast/internal/durable"
	"github.com/holdfast-edge/holdfast/wire"
	"github.com/holdfast-edge/holdfast/wire/seal"
)

type newSetFlags struct {
	from, fleet                string
	publishers, dropPublishers []string
	roots, dropRoots           []string
	threshold                  uint8
	thresholdGiven             bool
}

func publishersNew(a *app) *cobra.Command {
	var f newSetFlags
	c := &cobra.Command{
		Use: "new FILE", Short: "make the next set of publishers",
		Long: `New writes a set of publishers to FILE, which must not be there, for root keys to sign. With --from it is the set after that one, with the
changes that the other flags name; without, it is set 1 of a fleet, which the core signs when it is pushed. It asks no core.`,
		Example: `  holdfast publishers new set-1.cbor --fleet plant --threshold 2 --root root-1.key.pub --root root-2.key.pub \
      --root root-3.key.pub --publisher ci=ci.key.pub
  holdfast publishers new set-2.cose --from set-1.cose --remove-publisher ci --publisher release=release.key.pub`,
		Args: takes("FILE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			f.thresholdGiven = cmd.Flags().Changed("threshold")
			set, err := f.set()
			if err != nil {
				return err
			}
			b, err := wire.Marshal(set)
			if err != nil {
				return err
			}
			if _, err := os.Lstat(args[0]); err == nil {
				return usage("%s is there already", args[0])
			}
			if err := durable.WriteFile(args[0], b, 0o644); err != nil {
				return err
			}
			return a.printSet(&setFile{set, args[0], nil}, nil)
		},
	}
	c.Flags().StringVar(&f.from, "from", "", "`file` with the sealed set before; without: it is set 1")
	c.Flags().StringVar(&f.fleet, "fleet", "", "`name` of the fleet, for set 1")
	c.Flags().StringArrayVar(&f.publishers, "publisher", nil, "`NAME=FILE` with a public key: a publisher, in the place of one of that name; may be repeated")
	c.Flags().StringArrayVar(&f.dropPublishers, "remove-publisher", nil, "`NAME` of a publisher that is one no more; may be repeated")
	c.Flags().StringArrayVar(&f.roots, "root", nil, "`FILE` with a public key: a root key; may be repeated")
	c.Flags().StringArrayVar(&f.dropRoots, "remove-root", nil, "`ID` of a root key that is one no more, or its beginning; may be repeated")
	c.Flags().Uint8Var(&f.threshold, "threshold", 1, "`number` of root keys that must sign the next set")
	return c
}

// set makes the set.
func (f *newSetFlags) set() (*seal.PublisherSet, error) {
	set := &seal.PublisherSet{Format: seal.PublisherSetFormat, Fleet: f.fleet, Number: 1, Threshold: f.threshold}
	switch {
	case (f.from == "") == (f.fleet == ""):
		return nil, usage("want --from for the next set, or --fleet for set 1")
	case f.from != "":
		prev, err := readSet(f.from)
		if err != nil {
			return nil, err
		}
		if prev.sealed == nil {
			return nil, usage("%s is not sealed: it is no set that the next one can follow", f.from)
		}
		before := *prev.PublisherSet
		set = &before
		set.Number++
		if f.thresholdGiven {
			set.Threshold = f.threshold
		}
	}
	if err := f.changePublishers(set); err != nil {
		return nil, err
	}
	if err := f.changeRoots(set); err != nil {
		return nil, err
	}
	if err := set.Check(); err != nil {
		return nil, usage("%w", err)
	}
	return set, nil
}

func (f *newSetFlags) changePublishers(set *seal.PublisherSet) error {
	keys := make(map[string][]byte)
	for _, p := range set.Publishers {
		keys[p.Name] = p.Key
	}
	for _, name := range f.dropPublishers {
		if keys[name] == nil {
			return usage("--remove-publisher: there is no publisher %q in the set before", name)
		}
		delete(keys, name)
	}
	files, err := keyValues("publisher", f.publishers)
	if err != nil {
		return err
	}
	for name, file := range files {
		if keys[name], err = publicKey(file); err != nil {
			return err
		}
	}
	set.Publishers = []seal.Publisher{}
	for _, name := range slices.Sorted(maps.Keys(keys)) {
		set.Publishers = append(set.Publishers, seal.Publisher{Name: name, Key: keys[name]})
	}
	return nil
}

func (f *newSetFlags) changeRoots(set *seal.PublisherSet) error {
	roots := slices.Clone(set.Roots)
	for _, id := range f.dropRoots {
		n := len(roots)
		roots = slices.DeleteFunc(roots, func(r []byte) bool { return strings.HasPrefix(seal.PublisherKeyOf(r).String(), strings.ToLower(id)) })
		if id == "" || len(roots) != n-1 {
			return usage("--remove-root: %d root keys of the set before have an id that begins with %q, want one", n-len(roots), id)
		}
	}
	for _, file := range f.roots {
		pub, err := publicKey(file)
		if err != nil {
			return err
		}
		roots = append(roots, pub)
	}
	slices.SortFunc(roots, bytes.Compare)
	for i := 1; i < len(roots); i++ {
		if bytes.Equal(roots[i-1], roots[i]) {
			return usage("--root: key %s is a root key already", seal.PublisherKeyOf(roots[i]))
		}
	}
	set.Roots = roots
	return nil
}
