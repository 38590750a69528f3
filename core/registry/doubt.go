package registry

import (
	"fmt"

	"github.com/holdfast-edge/holdfast/core/command"
	"github.com/holdfast-edge/holdfast/wire/ident"
)

// doubt names a gateway that said what cannot be. Result: nil, or ErrNotFound.
func (a *applier) doubt(c *command.Doubt) any {
	g, ok := a.view.gateways.get(c.Gateway)
	if !ok {
		return fmt.Errorf("gateway %s: %w", c.Gateway, ErrNotFound)
	}
	s := Subject{Site: g.Site, Gateway: g.ID()}
	detail := map[string]string{"gateway": ident.Gateway(a.view.fleet.Name, g.Site, g.Name).String(), "reason": c.Reason, "count": u64(c.Count)}
	if c.Detail != "" {
		detail["detail"] = c.Detail
	}
	if !c.Device.IsZero() {
		s.Device = c.Device.String()
	}
	a.event(EventGatewayDoubted, s, detail)
	a.auditCore("gateway.doubt", s, detail)
	return nil
}
