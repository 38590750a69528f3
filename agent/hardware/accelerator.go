package hardware

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/holdfast-edge/holdfast/wire"
)

// The names that Accelerators can hold. Targeting expressions match them, so a name is never changed.
const (
	nvidiaGPU  = "nvidia-gpu"
	amdGPU     = "amd-gpu"
	intelGPU   = "intel-gpu"
	edgeTPU    = "google-edgetpu"
	hailoNPU   = "hailo"
	movidiusVP = "intel-movidius-vpu"
)

// findings collects what the buses hold and what could not be looked at.
type findings struct {
	names  map[string]bool
	first  error // the first failure, in bus and name order
	failed int   // failures in all
}

// accelerators asks every bus, whether or not another one fails. looked tells why sysfs could not be seen at all.
func accelerators(t tree, looked error) wire.Fact[[]string] {
	f := findings{names: make(map[string]bool)}
	f.scan(t, "/sys/bus/pci/devices", t.pciDevice)
	f.scan(t, "/sys/bus/usb/devices", t.usbDevice)
	f.scan(t, "/sys/bus/platform/devices", t.platformDevice)
	f.note(looked)
	names := slices.Sorted(maps.Keys(f.names))
	switch {
	case f.failed > 0:
		return wire.Fact[[]string]{State: wire.FactUnknown, Value: names, Reason: f.reason()}
	case len(names) == 0:
		return wire.Absent[[]string]()
	default:
		return wire.Known(names)
	}
}

// scan looks at each device of a bus. device returns the accelerator's name, empty for any other device.
func (f *findings) scan(t tree, bus string, device func(dir string) (string, error)) {
	names, err := t.list(bus)
	f.fail(err)
	for _, name := range names {
		found, err := device(bus + "/" + name)
		f.fail(err)
		if found != "" {
			f.names[found] = true
		}
	}
}

// fail notes err unless it is nil or says that there is nothing to look at.
func (f *findings) fail(err error) {
	if !missing(err) {
		f.note(err)
	}
}

// note counts err unless it is nil.
func (f *findings) note(err error) {
	if err == nil {
		return
	}
	if f.first == nil {
		f.first = err
	}
	f.failed++
}

func (f *findings) reason() string {
	if f.failed == 1 {
		return reason(f.first)
	}
	more := fmt.Sprintf(" (and %d more)", f.failed-1)
	return clip(reason(f.first), wire.MaxReason-len(more)) + more
}

func (t tree) pciDevice(dir string) (string, error) {
	vendor, err := t.hex(dir+"/vendor", 16)
	if err != nil || !pciVendor(vendor) {
		return "", err
	}
	class, err := t.hex(dir+"/class", 24)
	if err != nil {
		return "", err
	}
	device, err := t.hex(dir+"/device", 16)
	if err != nil {
		return "", err
	}
	return pciAccelerator(class, vendor, device), nil
}

// PCI vendor ids, as the PCI ID repository lists them; Apex (the Edge TPU) and Hailo as their Linux drivers define them
// (gasket-driver src/apex_driver.c, hailort-drivers common/pcie_common.h).
const (
	pciAMD    = 0x1002
	pciNVIDIA = 0x10de
	pciApex   = 0x1ac1
	pciHailo  = 0x1e60
	pciIntel  = 0x8086
)

// pciVendor reports whether any device of vendor can be an accelerator, which saves two reads for the others.
func pciVendor(vendor uint64) bool {
	switch vendor {
	case pciAMD, pciNVIDIA, pciApex, pciHailo, pciIntel:
		return true
	}
	return false
}

// pciAccelerator names an accelerator. class is base class, subclass and interface: a GPU is any display controller
// (base class 03), which leaves out the audio and USB functions and the bridges of the same vendor. The Edge TPU and
// Hailo go by their ids, since their class is that of a mere system peripheral or co-processor.
func pciAccelerator(class, vendor, device uint64) string {
	display := class>>16 == 0x03
	switch {
	case vendor == pciNVIDIA && display:
		return nvidiaGPU
	case vendor == pciAMD && display:
		return amdGPU
	case vendor == pciIntel && display:
		return intelGPU
	case vendor == pciApex && device == 0x089a:
		return edgeTPU
	case vendor == pciHailo:
		return hailoNPU
	}
	return ""
}

// usbDevice looks at a device. The bus also lists interfaces, such as 2-1:1.0, which have no ids and so count as missing.
func (t tree) usbDevice(dir string) (string, error) {
	vendor, err := t.hex(dir+"/idVendor", 16)
	if err != nil {
		return "", err
	}
	product, err := t.hex(dir+"/idProduct", 16)
	if err != nil {
		return "", err
	}
	return usbAccelerator(vendor, product), nil
}

// usbAccelerator names an accelerator. The Edge TPU has the id of its maker until its firmware is loaded and Google's
// from then on (udev rules of libedgetpu); the Myriad's change likewise between Myriad 2 boot, Myriad X boot and booted
// (97-myriad-usbboot.rules of OpenVINO).
func usbAccelerator(vendor, product uint64) string {
	switch vendor<<16 | product {
	case 0x1a6e_089a, 0x18d1_9302:
		return edgeTPU
	case 0x03e7_2150, 0x03e7_2485, 0x03e7_f63b:
		return movidiusVP
	}
	return ""
}

// platformDevice finds the GPU that is part of a Tegra chip: a platform device called after its node, "gpu" or the
// GPU's code name, with an NVIDIA compatible string. The kernel makes devices of enabled nodes only.
func (t tree) platformDevice(dir string) (string, error) {
	if !gpuNode(dir[strings.LastIndexByte(dir, '/')+1:]) {
		return "", nil
	}
	data, err := t.read(dir+"/uevent", maxAttribute)
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(string(data)) {
		key, value, _ := strings.Cut(line, "=")
		if strings.HasPrefix(key, "OF_COMPATIBLE_") && strings.HasPrefix(value, "nvidia,") {
			return nvidiaGPU, nil
		}
	}
	return "", nil
}

// gpuNode reports whether a platform device's name, "address.node" or "node", is that of a GPU that NVIDIA could have
// made. The code names are those that the nvgpu driver binds to.
func gpuNode(name string) bool {
	for part := range strings.SplitSeq(name, ".") {
		switch part {
		case "gpu", "gk20a", "gm20b", "gp10b", "gv11b", "ga10b":
			return true
		}
	}
	return false
}

// hex reads a number of at most bits bits that sysfs writes with "0x" (PCI) or without (USB).
func (t tree) hex(path string, bits int) (uint64, error) {
	s, err := t.text(path)
	if err != nil {
		return 0, err
	}
	n, err := strconv.ParseUint(strings.TrimPrefix(s, "0x"), 16, bits)
	if err != nil {
		if ne, ok := errors.AsType[*strconv.NumError](err); ok {
			err = ne.Err
		}
		return 0, pathError(path, fmt.Errorf("%w: id %q: %w", errMalformed, clip(s, 32), err))
	}
	return n, nil
}
