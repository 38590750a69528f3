package cli

import (
	"context"
	"errors"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/holdfast-edge/holdfast/cmd/holdfast/internal/client"
	"github.com/holdfast-edge/holdfast/cmd/holdfast/internal/output"
	v1 "github.com/holdfast-edge/holdfast/core/api/v1"
)

func devicesCommand(a *app) *cobra.Command {
	c := &cobra.Command{Use: "devices", Aliases: []string{"device"}, Short: "list, look at and change devices"}
	c.AddCommand(devicesList(a), devicesGet(a), devicesHistory(a), devicesPresence(a), devicesTag(a), devicesSet(a), devicesRelease(a),
		devicesAssign(a), devicesUnassign(a), devicesRetry(a), devicesExplain(a))
	return c
}

// params makes query parameters of names and values in turn; empty values are left out.
func params(namesAndValues ...string) url.Values {
	v := url.Values{}
	for i := 0; i+1 < len(namesAndValues); i += 2 {
		if namesAndValues[i+1] != "" {
			v.Set(namesAndValues[i], namesAndValues[i+1])
		}
	}
	return v
}

func limitFlag(c *cobra.Command, limit *uint32) {
	c.Flags().Uint32Var(limit, "limit", 0, "show at most so `many`; 0: all")
}

// An order of time is a flag's value: asc, desc, or empty for the core's choice.
type order string

var errOrder = errors.New("must be asc or desc")

// Set implements pflag.Value.
func (o *order) Set(s string) error {
	if s != "asc" && s != "desc" {
		return errOrder
	}
	*o = order(s)
	return nil
}

// String implements pflag.Value.
func (o *order) String() string { return string(*o) }

// Type implements pflag.Value.
func (o *order) Type() string { return "asc|desc" }

func orderFlag(c *cobra.Command, o *order) {
	c.Flags().Var(o, "order", "asc: oldest first (default), desc: newest first")
	complete(c, "order", "asc", "desc")
}

func devicesList(a *app) *cobra.Command {
	var site, state, presence string
	var limit uint32
	c := &cobra.Command{
		Use: "list", Short: "list devices", Args: takes(), ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.with(cmd.Context(), func(c *client.Client) error {
				devices, err := fetch[v1.Device](cmd.Context(), a, c, client.Query{
					Path:   client.Path("v1", "devices"),
					Params: params("site", site, "state", state, "presence", presence), Limit: int(limit),
				})
				if err != nil {
					return err
				}
				return printList(a, devices, deviceGrid(devices, c.Now()))
			})
		},
	}
	c.Flags().StringVar(&site, "site", "", "only those of this `site`")
	c.Flags().StringVar(&state, "state", "", "only those in this `state`: active, quarantined or decommissioned")
	c.Flags().StringVar(&presence, "presence", "", "only those that are `online` or offline")
	limitFlag(c, &limit)
	completeBy(c, "site", siteNames(a))
	complete(c, "state", "active", "quarantined", "decommissioned")
	complete(c, "presence", "online", "offline")
	return c
}

func deviceGrid(devices []v1.Device, now time.Time) *output.Grid {
	g := output.NewGrid("ID", "SITE", "STATE", "PRESENCE", "HEARTBEAT", "MODEL", "AGENT")
	for _, d := range devices {
		presence := d.Presence
		if d.PresenceReason != "" {
			presence += " (" + d.PresenceReason + ")"
		}
		g.Row(d.Presence != "online" || d.State != "active",
			d.ID, d.Site, d.State, presence, output.Ago(now, d.LastHeartbeatAt), text(d.Profile.Model), d.AgentVersion)
	}
	return g
}

func devicesGet(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "get ID", Short: "show all that is known about a device", Args: takes("ID"), ValidArgsFunction: firstArg(deviceIDs(a)),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.withDevice(cmd.Context(), args[0], func(c *client.Client, id string) error {
				d, tag, err := client.GetTagged[v1.Device](cmd.Context(), c, client.Path("v1", "devices", id), nil)
				if err != nil {
					return err
				}
				return a.print(d, deviceSheet(d, ofTag(tag), c.Now()).Write)
			})
		},
	}
}

// withDevice runs f with a client and the whole id of the device given by it or its beginning.
func (a *app) withDevice(ctx context.Context, given string, f func(*client.Client, string) error) error {
	return a.with(ctx, func(c *client.Client) error {
		id, err := a.deviceID(ctx, c, given)
		if err != nil {
			return err
		}
		return f(c, id)
	})
}

func devicesHistory(a *app) *cobra.Command {
	var by order
	var limit uint32
	c := &cobra.Command{
		Use: "history ID", Short: "show what a device has stated", Args: takes("ID"), ValidArgsFunction: firstArg(deviceIDs(a)),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.withDevice(cmd.Context(), args[0], func(c *client.Client, id string) error {
				items, err := fetch[v1.HistoryItem](cmd.Context(), a, c, client.Query{
					Path: client.Path("v1", "devices", id, "history"), Params: params("order", string(by)), Limit: int(limit),
				})
				if err != nil {
					return err
				}
				return printList(a, items, historyGrid(items))
			})
		},
	}
	orderFlag(c, &by)
	limitFlag(c, &limit)
	return c
}

func historyGrid(items []v1.HistoryItem) *output.Grid {
	g := output.NewGrid("EPOCH", "SEQ", "TYPE", "COMMITTED", "DEVICE TIME", "CLOCK", "GATEWAY", "CHANGED")
	for _, it := range items {
		changed := make([]string, len(it.Changed))
		for i, c := range it.Changed {
			changed[i] = c.Fact + ": " + orNone(c.From) + " → " + orNone(c.To)
		}
		if it.Status != nil {
			changed = append(changed, statusWords(it.Status))
		}
		if it.Alarm != nil {
			changed = append(changed, because(it.Alarm.Reason, it.Alarm.Detail))
		}
		seq, kind := strconv.FormatUint(it.Seq, 10), it.Type
		if it.To > it.Seq {
			seq += "-" + strconv.FormatUint(it.To, 10)
		}
		if it.Late {
			kind += ", late"
		}
		bad := it.To != 0 || it.Alarm != nil || it.Status != nil && isBad(it.Status.State)
		g.Row(bad, strconv.FormatUint(it.Epoch, 10), seq, kind, output.Stamp(&it.CommittedAt),
			output.Stamp(it.DeviceTime), it.ClockState, it.Gateway, strings.Join(changed, ", "))
	}
	return g
}

// isBad tells whether a state of a slot is one to look at.
func isBad(state string) bool {
	return state == "failed" || state == "rolled_back" || state == "drifted"
}

// statusWords is a status in a few words.
func statusWords(s *v1.Status) string {
	text := s.Slot + ": " + artifactLabel(s.Artifact, s.Name, s.Version) + " " + s.State
	if s.Reason != "" {
		text += ", " + s.Reason
	}
	if s.Detail != "" {
		text += ": " + s.Detail
	}
	if s.State == "downloading" && s.TotalBytes > 0 {
		text += ", " + output.Bytes(min(s.FetchedBytes+s.SavedBytes, s.TotalBytes)) + " of " + output.Bytes(s.TotalBytes)
	}
	if isBad(s.State) {
		text += "; " + artifactLabel(s.Running, s.RunningName, s.RunningVersion) + " runs"
	}
	return text
}

// orNone is for a fact that had no value, be it absent or unknown.
func orNone(s string) string {
	if s == "" {
		return "none"
	}
	return s
}

func devicesPresence(a *app) *cobra.Command {
	var by order
	var limit uint32
	c := &cobra.Command{
		Use: "presence ID", Short: "show when a device was online", Args: takes("ID"), ValidArgsFunction: firstArg(deviceIDs(a)),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.withDevice(cmd.Context(), args[0], func(c *client.Client, id string) error {
				items, err := fetch[v1.PresenceItem](cmd.Context(), a, c, client.Query{
					Path: client.Path("v1", "devices", id, "presence"), Params: params("order", string(by)), Limit: int(limit),
				})
				if err != nil {
					return err
				}
				return printList(a, items, presenceGrid(items, c.Now()))
			})
		},
	}
	orderFlag(c, &by)
	limitFlag(c, &limit)
	return c
}

func presenceGrid(items []v1.PresenceItem, now time.Time) *output.Grid {
	g := output.NewGrid("FROM", "TO", "FOR", "STATE", "REASON", "GATEWAY", "BEATS", "MISSED")
	for _, it := range items {
		end, to := now, "now"
		if it.To != nil {
			end, to = *it.To, output.Stamp(it.To)
		}
		g.Row(it.State != "online", output.Stamp(&it.From), to, output.Span(end.Sub(it.From)), it.State, it.Reason, it.Gateway,
			count(it.Counted, it.Beats), count(it.Counted, it.Missed))
	}
	return g
}

// count is a number of heartbeats, or nothing where nobody counted.
func count(counted bool, n uint64) string {
	if !counted {
		return ""
	}
	return strconv.FormatUint(n, 10)
}
