package hardware

import "strings"

// soc names the system on chip, errNothing if the tree is a virtual machine's.
func (t tree) soc() (string, error) {
	data, err := t.readFirst(maxAttribute, deviceTree+"compatible", oldDeviceTree+"compatible")
	if err != nil {
		return "", err
	}
	if name := socName(splitStrings(data)); name != "" {
		return name, nil
	}
	return "", pathError(deviceTree+"compatible", errNothing)
}

// socName turns the root node's compatible list into a name such as "nvidia-jetson-xavier-nx" or "broadcom-bcm2711",
// empty if there is none. The list runs from the board to the chip. A Jetson is named after its module, since modules
// with the same chip differ in what they can run; any other board after the last entry, "vendor,part".
func socName(compatible []string) string {
	for _, entry := range compatible {
		vendor, parts, _ := strings.Cut(entry, ",")
		if vendor != "nvidia" {
			continue
		}
		for part := range strings.SplitSeq(parts, "+") { // carrier+module
			if m := jetsonModule(part); m != "" {
				return "nvidia-jetson-" + m
			}
		}
	}
	if len(compatible) == 0 {
		return ""
	}
	vendor, part, found := strings.Cut(compatible[len(compatible)-1], ",")
	switch {
	case !found:
		return slug(vendor)
	case vendor == "linux": // linux,dummy-virt: QEMU's board without a chip
		return ""
	}
	return slug(vendorName(vendor) + "-" + part)
}

// jetsonModule is the product name of a Jetson board number, empty for carriers and for what is not one. The numbers
// are in NVIDIA's Jetson EEPROM layout and, for the developer kits that mainline describes as a whole, in
// Documentation/devicetree/bindings/arm/tegra.yaml of Linux.
func jetsonModule(part string) string {
	board, sku, _ := strings.Cut(part, "-")
	sku, _, _ = strings.Cut(sku, "-") // p3448-0000-b00 has the revision behind
	switch board {
	case "p3834":
		return "thor"
	case "p3767":
		switch sku {
		case "0003", "0004", "0005":
			return "orin-nano"
		}
		return "orin-nx"
	case "p3701":
		return "agx-orin"
	case "p3668":
		return "xavier-nx"
	case "p2888", "p2972":
		return "agx-xavier"
	case "p3636":
		return "tx2-nx"
	case "p3310", "p3489", "p2771":
		return "tx2"
	case "p2180":
		return "tx1"
	case "p2371":
		if sku == "2180" {
			return "tx1"
		}
	case "p3448", "p3450":
		return "nano"
	}
	return ""
}

// vendorName expands the device tree prefixes that operators do not know a maker by (the prefixes are registered in
// Documentation/devicetree/bindings/vendor-prefixes.yaml of Linux). Freescale's chips are NXP's now.
func vendorName(prefix string) string {
	switch prefix {
	case "brcm":
		return "broadcom"
	case "fsl":
		return "nxp"
	case "qcom":
		return "qualcomm"
	case "xlnx":
		return "xilinx"
	}
	return prefix
}

// slug keeps lower-case letters, digits, '.', '_' and '-', and makes one '-' of every run of others.
func slug(s string) string {
	fields := strings.FieldsFunc(strings.ToLower(s), func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < '0' || r > '9') && r != '.' && r != '_' && r != '-'
	})
	return clip(strings.Join(fields, "-"), maxText)
}
