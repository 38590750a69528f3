package hardware

import "strings"

// The device tree is at the first path; the second is a link to it that kernels make for older programs, and what a
// container may have been given alone.
const (
	deviceTree    = "/sys/firmware/devicetree/base/"
	oldDeviceTree = "/proc/device-tree/"
	dmi           = "/sys/class/dmi/id/"
)

// treeModel is the name that the device tree gives to the board.
func (t tree) treeModel() (string, error) { return t.text(deviceTree+"model", oldDeviceTree+"model") }

// systemModel is the name that the firmware gives to the machine.
func (t tree) systemModel() (string, error) { return t.dmiModel("sys_vendor", "product_name") }

// boardModel is the name of the mainboard, all there is where an assembler left the machine's own fields unfilled.
func (t tree) boardModel() (string, error) { return t.dmiModel("board_vendor", "board_name") }

// dmiModel joins a maker and a name. A maker without a name identifies nothing.
func (t tree) dmiModel(vendorField, nameField string) (string, error) {
	name, err := t.text(dmi + nameField)
	if err != nil {
		return "", err
	}
	if placeholder(name) {
		return "", pathError(dmi+nameField, errNothing)
	}
	vendor, err := t.text(dmi + vendorField)
	if err != nil && !missing(err) {
		return "", err
	}
	return joinModel(vendor, name), nil
}

// joinModel puts the maker before the name unless the name has it already.
func joinModel(vendor, name string) string {
	if placeholder(vendor) || strings.HasPrefix(strings.ToLower(name), strings.ToLower(vendor)) {
		return name
	}
	return clip(vendor+" "+name, maxText)
}

// placeholder reports whether s is what a maker leaves in a field that it did not fill.
func placeholder(s string) bool {
	switch strings.TrimRight(strings.ToLower(s), ".") {
	case "", "to be filled by o.e.m", "default string", "default", "oem", "o.e.m",
		"system manufacturer", "system product name", "system serial number", "system version", "system name",
		"product name", "base board product name", "base board manufacturer", "serial number",
		"not specified", "not applicable", "not available", "not present", "not defined", "undefined", "n/a", "na",
		"none", "null", "empty", "invalid", "unknown", "unknown product", "unknow", "no enclosure",
		"0123456789", "123456789", "1234567890", "012345678901234567890123456789":
		return true
	}
	return strings.Trim(s, s[:1]) == "" // one character over and over: 0000, xxxx, ....
}
