package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/url"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/holdfast-edge/holdfast/cmd/holdfast/internal/client"
	"github.com/holdfast-edge/holdfast/cmd/holdfast/internal/output"
	v1 "github.com/holdfast-edge/holdfast/core/api/v1"
)

func eventsCommand(a *app) *cobra.Command {
	var count uint64
	var after, device, site, kind string
	c := &cobra.Command{
		Use: "events", Short: "follow what changes in the fleet",
		Long: `Events shows changes as the core commits them, until it is interrupted. A connection that breaks is opened again and goes on
after the last event shown. With -o json each event is one line.`,
		Example: "  holdfast events --site plant-7\n  holdfast events --after 4711 --type device.offline -o json",
		Args:    takes(), ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.with(cmd.Context(), func(c *client.Client) error {
				if device != "" {
					var err error
					if device, err = a.deviceID(cmd.Context(), c, device); err != nil {
						return err
					}
				}
				filter := params("device", device, "site", site, "type", kind)
				return a.events(cmd.Context(), c, filter, after, count)
			})
		},
	}
	f := c.Flags()
	f.StringVar(&after, "after", "", "begin behind this log `index`, with what is still kept (default: with what comes now)")
	f.Uint64Var(&count, "count", 0, "end after so `many` events; 0: never")
	f.StringVar(&device, "device", "", "only those of this `device`")
	f.StringVar(&site, "site", "", "only those of this `site`")
	f.StringVar(&kind, "type", "", "only those of this `type`, such as device.offline")
	completeBy(c, "device", deviceIDs(a))
	completeBy(c, "site", siteNames(a))
	return c
}

// events follows the stream and prints until count events were shown or ctx ends, which is no failure.
func (a *app) events(ctx context.Context, c *client.Client, filter url.Values, after string, count uint64) error {
	shown := uint64(0)
	f := follower{
		after: after,
		open: func(ctx context.Context, after string) (eventStream, error) {
			q := params("after", after)
			maps.Copy(q, filter)
			return c.Events(ctx, q)
		},
		emit: func(e v1.Event) error {
			if err := a.printEvent(e); err != nil {
				return err
			}
			if shown++; shown == count {
				return errEnough
			}
			return nil
		},
		note: a.note,
	}
	err := f.run(ctx)
	if errors.Is(err, errEnough) || ctx.Err() != nil {
		err = nil
	}
	return err
}

// errEnough ends a follower whose work is done.
var errEnough = errors.New("enough events")

func (a *app) printEvent(e v1.Event) error {
	switch a.format {
	case output.AsJSON:
		return output.JSON(a.out, e, true)
	case output.AsYAML:
		if _, err := io.WriteString(a.out, "---\n"); err != nil {
			return err
		}
		return output.YAML(a.out, e)
	case output.Table:
	}
	_, err := fmt.Fprintln(a.out, eventLine(e))
	return err
}

// eventLine is an event for people, on one line.
func eventLine(e v1.Event) string {
	subject := map[string]string{}
	for k, v := range map[string]string{"device": e.Device, "site": e.Site, "gateway": e.Gateway, "token": e.Token, "operator": e.Operator, "node": e.Node} {
		if v != "" {
			subject[k] = v
		}
	}
	line := fmt.Sprintf("%s  %-8s %-20s  %s", output.Stamp(&e.Time), strconv.FormatUint(e.Index, 10), e.Type, output.Pairs(subject))
	if len(e.Data) > 0 {
		line += "  " + output.Pairs(e.Data)
	}
	return output.Clean(line, maxErrorText)
}
