package cli

import (
	"context"
	"net/http"

	"github.com/spf13/cobra"

	"github.com/holdfast-edge/holdfast/cmd/holdfast/internal/client"
	v1 "github.com/holdfast-edge/holdfast/core/api/v1"
)

// A slotChange is a command that changes one slot of a device.
type slotChange struct {
	slot     string
	expected revision
}

func (s *slotChange) flags(c *cobra.Command) {
	c.Flags().StringVar(&s.slot, "slot", "", "`name` of the slot: lower-case letters, digits and inner hyphens")
	revisionFlag(c, &s.expected)
}

// send sends the change and returns the device and its whole id.
func (s *slotChange) send(ctx context.Context, c *client.Client, id, method, verb string, body any) (v1.Device, error) {
	path := client.Path("v1", "devices", id, "slots", s.slot)
	if verb != "" {
		path = client.Path("v1", "devices", id, "slots", s.slot, verb)
	}
	return client.SendIf[v1.Device](ctx, c, s.expected.etag(), method, path, body)
}

func devicesAssign(a *app) *cobra.Command {
	var s slotChange
	var given string
	var downgrade bool
	c := &cobra.Command{
		Use: "assign ID --slot SLOT --artifact ARTIFACT", Short: "say what a slot of a device is to run",
		Long: `Assign says what a slot is to run. The device is told as soon as it can be, and goes on by itself: it fetches, verifies, switches, checks,
and goes back if a check fails. ARTIFACT is NAME@VERSION, or a digest or its beginning. Watch it with "holdfast devices explain ID".`,
		Example: "  holdfast devices assign 3fa8 --slot app --artifact camera@1.4",
		Args:    takes("ID"), ValidArgsFunction: firstArg(deviceIDs(a)),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := needs(cmd, "slot", "artifact"); err != nil {
				return err
			}
			return a.withDevice(cmd.Context(), args[0], func(c *client.Client, id string) error {
				of, err := a.artifactID(cmd.Context(), c, given)
				if err != nil {
					return err
				}
				d, err := s.send(cmd.Context(), c, id, http.MethodPut, "", v1.SetSlot{Artifact: of, Downgrade: downgrade})
				if err != nil {
					return err
				}
				return a.did(d, "device %s: slot %s is to run %s, order %d", id, s.slot, assignedTo(&d, s.slot), d.Desired.Version)
			})
		},
	}
	s.flags(c)
	c.Flags().StringVar(&given, "artifact", "", "`artifact` to run: NAME@VERSION, or a digest or its beginning")
	c.Flags().BoolVar(&downgrade, "downgrade", false, "also if its release is lower than one that was healthy in the slot")
	completeBy(c, "artifact", artifactTitles(a))
	return c
}

// assignedTo is what a slot of a device is to run, as people know it.
func assignedTo(d *v1.Device, slot string) string {
	for i := range d.Desired.Assignments {
		if x := &d.Desired.Assignments[i]; x.Slot == slot {
			return artifactLabel(x.Artifact, x.Name, x.Version)
		}
	}
	return artifactLabel("", "", "")
}

func devicesUnassign(a *app) *cobra.Command {
	var s slotChange
	c := &cobra.Command{
		Use: "unassign ID --slot SLOT", Short: "let a slot of a device run nothing",
		Long: "Unassign lets a slot run nothing: the device removes what runs there.",
		Args: takes("ID"), ValidArgsFunction: firstArg(deviceIDs(a)),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := needs(cmd, "slot"); err != nil {
				return err
			}
			return a.withDevice(cmd.Context(), args[0], func(c *client.Client, id string) error {
				d, err := s.send(cmd.Context(), c, id, http.MethodDelete, "", nil)
				if err != nil {
					return err
				}
				return a.did(d, "device %s: slot %s is to run nothing, order %d", id, s.slot, d.Desired.Version)
			})
		},
	}
	s.flags(c)
	return c
}

func devicesRetry(a *app) *cobra.Command {
	var s slotChange
	c := &cobra.Command{
		Use: "retry ID --slot SLOT", Short: "have tried again what failed in a slot of a device",
		Long: "A device remembers what failed and does not try it again by itself. Retry has it tried once more.",
		Args: takes("ID"), ValidArgsFunction: firstArg(deviceIDs(a)),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := needs(cmd, "slot"); err != nil {
				return err
			}
			return a.withDevice(cmd.Context(), args[0], func(c *client.Client, id string) error {
				d, err := s.send(cmd.Context(), c, id, http.MethodPost, "retry", nil)
				if err != nil {
					return err
				}
				return a.did(d, "device %s: slot %s tries %s again, order %d", id, s.slot, assignedTo(&d, s.slot), d.Desired.Version)
			})
		},
	}
	s.flags(c)
	return c
}
