package hardware

import (
	"net"
	"slices"
	"strings"

	"github.com/holdfast-edge/holdfast/wire"
)

// maxMACs is the bound of wire.Hints.MACs.
const maxMACs = 16

func hints(t tree) wire.Hints {
	return wire.Hints{Serial: t.serial(), MachineID: t.machineID(), MACs: t.macs()}
}

// serial is the board's or the machine's serial number. The firmware's is readable by root alone.
func (t tree) serial() string {
	s, err := ask([]probe[string]{
		func() (string, error) { return t.serialIn(deviceTree+"serial-number", oldDeviceTree+"serial-number") },
		func() (string, error) { return t.serialIn(dmi + "product_serial") },
	})
	if err != nil {
		return ""
	}
	return s
}

func (t tree) serialIn(paths ...string) (string, error) {
	s, err := t.text(paths...)
	if err == nil && placeholder(s) {
		return "", pathError(paths[0], errNothing)
	}
	return s, err
}

// machineID is the id of the installation, see machine-id(5). An image that has not had its first boot has the word
// "uninitialized" in it.
func (t tree) machineID() string {
	id, err := t.text("/etc/machine-id", "/var/lib/dbus/machine-id")
	if err != nil || len(id) != 32 || strings.Trim(id, "0123456789abcdef") != "" {
		return ""
	}
	return id
}

// macs lists the Ethernet addresses of interfaces that are devices, as bridges, tunnels and containers' interfaces are
// not. An address that the kernel drew at random (addr_assign_type 1) names nothing, and would change at every boot.
func (t tree) macs() []string {
	const dir = "/sys/class/net/"
	names, _ := t.list(dir) // with an error, those that could be listed
	var macs []string
	for _, name := range names {
		if _, err := t.read(dir+name+"/device/uevent", maxAttribute); err != nil {
			continue
		}
		if kind, err := t.text(dir + name + "/addr_assign_type"); err == nil && kind == "1" {
			continue
		}
		text, err := t.text(dir + name + "/address")
		if err != nil {
			continue
		}
		if mac := ethernetAddress(text); mac != "" {
			macs = append(macs, mac)
		}
	}
	slices.Sort(macs)
	macs = slices.Compact(macs) // the members of a bond share one
	return macs[:min(len(macs), maxMACs):min(len(macs), maxMACs)]
}

// ethernetAddress is s in lower case with colons, empty unless s is the six-byte address of one station.
func ethernetAddress(s string) string {
	mac, err := net.ParseMAC(s)
	if err != nil || len(mac) != 6 || mac[0]&1 != 0 || strings.Trim(mac.String(), "0:") == "" {
		return ""
	}
	return mac.String()
}
