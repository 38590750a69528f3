package cli

import (
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

// needs checks that flags are given.
func needs(c *cobra.Command, flags ...string) error {
	for _, f := range flags {
		if !c.Flags().Changed(f) {
			return usage("--%s is missing", f)
		}
	}
	return nil
}

// duration checks that s is a duration of Go's form; what range is good the core decides.
func duration(flag, s string) error {
	if _, err := time.ParseDuration(s); err != nil {
		return usage("--%s: %q is no duration: write such as 2s, 5m or 1h", flag, s)
	}
	return nil
}

// keyValues reads the values of a repeated flag k=v.
func keyValues(flag string, pairs []string) (map[string]string, error) {
	m := make(map[string]string, len(pairs))
	for _, p := range pairs {
		k, v, ok := strings.Cut(p, "=")
		if !ok || k == "" {
			return nil, usage("--%s: %q is not KEY=VALUE", flag, p)
		}
		if _, twice := m[k]; twice {
			return nil, usage("--%s: %q is given twice", flag, k)
		}
		m[k] = v
	}
	return m, nil
}

// tagChanges reads arguments KEY=VALUE, which set a tag, and KEY-, which remove one.
func tagChanges(args []string) (set map[string]string, remove []string, err error) {
	set = map[string]string{}
	seen := map[string]bool{}
	for _, arg := range args {
		key, value, isSet := strings.Cut(arg, "=")
		if !isSet {
			var isRemoval bool
			if key, isRemoval = strings.CutSuffix(arg, "-"); !isRemoval {
				return nil, nil, usage("%q is neither KEY=VALUE nor KEY- (which removes)", arg)
			}
		}
		switch {
		case key == "":
			return nil, nil, usage("%q names no tag", arg)
		case seen[key]:
			return nil, nil, usage("tag %q is given twice", key)
		case isSet:
			set[key] = value
		default:
			remove = append(remove, key)
		}
		seen[key] = true
	}
	return set, remove, nil
}

// byteRate reads a rate such as 2MiB/s, or none, which is 0. What range is good the core decides.
func byteRate(flag, s string) (uint64, error) {
	if s == "none" {
		return 0, nil
	}
	bad := usage("--%s: %q is no rate: write such as 500KiB/s, 2MiB/s or none", flag, s)
	number, ok := strings.CutSuffix(s, "/s")
	if !ok {
		return 0, bad
	}
	scale := float64(1)
	for _, u := range []struct {
		name string
		size float64
	}{{"KiB", 1 << 10}, {"MiB", 1 << 20}, {"GiB", 1 << 30}, {"kB", 1e3}, {"MB", 1e6}, {"GB", 1e9}, {"B", 1}} {
		if n, is := strings.CutSuffix(number, u.name); is {
			number, scale = n, u.size
			break
		}
	}
	v, err := strconv.ParseFloat(number, 64)
	if n := v * scale; err == nil && n >= 1 && n < 1<<62 {
		return uint64(n), nil
	}
	return 0, bad
}
