package cli

import (
	"maps"
	"net/http"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/holdfast-edge/holdfast/cmd/holdfast/internal/client"
	"github.com/holdfast-edge/holdfast/cmd/holdfast/internal/output"
	v1 "github.com/holdfast-edge/holdfast/core/api/v1"
)

// likeSite is the interval that returns a device to its site's.
const likeSite = "site"

func devicesTag(a *app) *cobra.Command {
	var expected revision
	c := &cobra.Command{
		Use: "tag ID KEY=VALUE|KEY-...", Short: "set and remove tags of a device",
		Long: `Tag sets KEY=VALUE and removes KEY-. An operator's tag wins over those that a token preset and that the device states itself;
removing one hides it, whoever set it.`,
		Example: "  holdfast devices tag 3fa8 line=3 commissioning-",
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) < 2 {
				return takes("ID", "KEY=VALUE or KEY-")(nil, args)
			}
			return nil
		},
		ValidArgsFunction: firstArg(deviceIDs(a)),
		RunE: func(cmd *cobra.Command, args []string) error {
			set, remove, err := tagChanges(args[1:])
			if err != nil {
				return err
			}
			return a.withDevice(cmd.Context(), args[0], func(c *client.Client, id string) error {
				d, err := client.SendIf[v1.Device](cmd.Context(), c, expected.etag(), http.MethodPatch, client.Path("v1", "devices", id, "tags"),
					v1.SetTags{Set: set, Remove: remove})
				if err != nil {
					return err
				}
				return a.did(d, "device %s: %s; tags in force: %s", id, tagWords(set, remove), output.Pairs(d.Tags))
			})
		},
	}
	revisionFlag(c, &expected)
	return c
}

// tagWords says what was set and removed.
func tagWords(set map[string]string, remove []string) string {
	var words []string
	for _, k := range slices.Sorted(maps.Keys(set)) {
		words = append(words, "set "+k+"="+set[k])
	}
	for _, k := range remove {
		words = append(words, "removed "+k)
	}
	return strings.Join(words, ", ")
}

func devicesSet(a *app) *cobra.Command {
	var interval string
	var expected revision
	c := &cobra.Command{
		Use: "set ID --heartbeat-interval DURATION|site", Short: "change settings of a device",
		Example: "  holdfast devices set 3fa8 --heartbeat-interval 2s\n  holdfast devices set 3fa8 --heartbeat-interval site",
		Args:    takes("ID"), ValidArgsFunction: firstArg(deviceIDs(a)),
		RunE: func(cmd *cobra.Command, args []string) error {
			value, whose := interval, "its own"
			switch interval {
			case "":
				return usage("nothing to set: give --heartbeat-interval")
			case likeSite:
				value, whose = "", "the site's"
			default:
				if err := duration("heartbeat-interval", interval); err != nil {
					return err
				}
			}
			return a.withDevice(cmd.Context(), args[0], func(c *client.Client, id string) error {
				d, err := client.SendIf[v1.Device](cmd.Context(), c, expected.etag(), http.MethodPatch, client.Path("v1", "devices", id),
					v1.SetDevice{HeartbeatInterval: &value})
				if err != nil {
					return err
				}
				return a.did(d, "device %s: heartbeat interval set to %s, %s", id, output.Seconds(d.HeartbeatIntervalS), whose)
			})
		},
	}
	c.Flags().StringVar(&interval, "heartbeat-interval", "", "`duration` from 1s to 1h, or site: as its site")
	complete(c, "heartbeat-interval", likeSite)
	revisionFlag(c, &expected)
	return c
}

func devicesRelease(a *app) *cobra.Command {
	var expected revision
	c := &cobra.Command{
		Use: "release ID", Short: "end a device's quarantine",
		Long: `Release ends a quarantine, which a device is in after it was seen to act in two places at once. Make sure first that only one of
the two is left: the other one would bring the quarantine back.`,
		Args: takes("ID"), ValidArgsFunction: firstArg(deviceIDs(a)),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.withDevice(cmd.Context(), args[0], func(c *client.Client, id string) error {
				d, err := client.SendIf[v1.Device](cmd.Context(), c, expected.etag(), http.MethodPost, client.Path("v1", "devices", id, "release"), nil)
				if err != nil {
					return err
				}
				return a.did(d, "device %s: released, now %s", id, d.State)
			})
		},
	}
	revisionFlag(c, &expected)
	return c
}
