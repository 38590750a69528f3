package hardware

import (
	"fmt"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/holdfast-edge/holdfast/wire"
)

func TestSoCName(t *testing.T) {
	for _, c := range []struct {
		compatible []string
		want       string
	}{
		{[]string{"nvidia,p3509-0000+p3668-0001", "nvidia,tegra194"}, "nvidia-jetson-xavier-nx"},
		{[]string{"nvidia,p3668-0000", "nvidia,tegra194"}, "nvidia-jetson-xavier-nx"},
		{[]string{"nvidia,p2972-0000", "nvidia,tegra194"}, "nvidia-jetson-agx-xavier"},
		{[]string{"nvidia,p3768-0000+p3767-0000", "nvidia,p3767-0000", "nvidia,tegra234"}, "nvidia-jetson-orin-nx"},
		{[]string{"nvidia,p3768-0000+p3767-0005", "nvidia,p3767-0005", "nvidia,tegra234"}, "nvidia-jetson-orin-nano"},
		{[]string{"nvidia,p3737-0000+p3701-0004", "nvidia,tegra234"}, "nvidia-jetson-agx-orin"},
		{[]string{"nvidia,p3449-0000-b00+p3448-0000-b00", "nvidia,jetson-nano", "nvidia,tegra210"}, "nvidia-jetson-nano"},
		{[]string{"nvidia,p2371-2180", "nvidia,tegra210"}, "nvidia-jetson-tx1"},
		{[]string{"nvidia,p2371-0000", "nvidia,tegra210"}, "nvidia-tegra210"},
		{[]string{"nvidia,p2597-0000+p3310-1000", "nvidia,tegra186"}, "nvidia-jetson-tx2"},
		{[]string{"nvidia,p3509-0000+p3636-0001", "nvidia,tegra186"}, "nvidia-jetson-tx2-nx"},
		{[]string{"nvidia,p4071-0000+p3834-0008", "nvidia,tegra264"}, "nvidia-jetson-thor"},
		{[]string{"nvidia,galen", "nvidia,tegra194"}, "nvidia-tegra194"},
		{[]string{"acme,p3668-0001", "acme,chip"}, "acme-chip"}, // another maker's board of that number
		{[]string{"raspberrypi,4-model-b", "brcm,bcm2711"}, "broadcom-bcm2711"},
		{[]string{"google,imx8mq-phanbell", "fsl,imx8mq"}, "nxp-imx8mq"},
		{[]string{"qcom,apq8016-sbc", "qcom,apq8016"}, "qualcomm-apq8016"},
		{[]string{"xlnx,zynqmp-zcu102-rev1.0", "xlnx,zynqmp"}, "xilinx-zynqmp"},
		{[]string{"radxa,rock-5b", "rockchip,rk3588"}, "rockchip-rk3588"},
		{[]string{"riscv-virtio"}, "riscv-virtio"},
		{[]string{"Weird Vendor,Chip  (A/B)"}, "weird-vendor-chip-a-b"},
		{[]string{"linux,dummy-virt"}, ""},
		{nil, ""},
	} {
		if got := socName(c.compatible); got != c.want {
			t.Errorf("%q is %q, want %q", c.compatible, got, c.want)
		}
	}
}

func TestGoArch(t *testing.T) {
	for _, c := range []struct{ machine, goarch, want string }{
		{"x86_64", "386", "amd64"}, // a 32-bit agent below a 64-bit kernel
		{"aarch64", "arm", "arm64"},
		{"armv8l", "arm", "arm64"},
		{"armv7l", "arm", "arm"},
		{"armv6l", "", "arm"},
		{"i686", "386", "386"},
		{"riscv64", "", "riscv64"},
		{"loongarch64", "", "loong64"},
		{"ppc64le", "", "ppc64le"},
		{"s390x", "", "s390x"},
		{"mips", "mipsle", "mipsle"},
		{"mips64", "mips", "mips64"},
		{"mips64", "", ""},
		{"e2k", "", ""},
		{"", "amd64", ""},
	} {
		if got := goArch(c.machine, c.goarch); got != c.want {
			t.Errorf("machine %q, agent %q: %q, want %q", c.machine, c.goarch, got, c.want)
		}
	}
}

func TestArchSources(t *testing.T) {
	root := plant(t, "raspberry-pi-4") // has no /proc/sys/kernel/arch
	for _, c := range []struct {
		src  Source
		want wire.Fact[string]
	}{
		{Source{Root: root, Machine: "armv7l", GOARCH: "arm"}, wire.Known("arm")},
		{Source{Root: root, Machine: "armv8l", GOARCH: "arm"}, wire.Known("arm64")},
		{Source{Root: root, Machine: "e2k", GOARCH: "riscv64"}, wire.Known("riscv64")},
		{Source{Root: root, GOARCH: "arm"}, wire.Known("arm")},
		{Source{Root: root}, wire.Unknown[string]("read /proc/sys/kernel/arch: no such file or directory")},
		{Source{Root: root, Machine: "e2k"}, wire.Unknown[string](`read /proc/sys/kernel/arch: malformed: machines "" and "e2k" have no known name`)},
	} {
		if got := Detect(c.src).Arch; got != c.want {
			t.Errorf("machine %q, agent %q: %+v, want %+v", c.src.Machine, c.src.GOARCH, got, c.want)
		}
	}
}

func TestModelFromDMI(t *testing.T) {
	for _, c := range []struct {
		name                             string
		vendor, product, bVendor, bBoard string
		want                             wire.Fact[string]
	}{
		{"vendor and product", "Dell Inc.", "PowerEdge R740", "", "", wire.Known("Dell Inc. PowerEdge R740")},
		{"vendor already in the product", "HP", "HP ProLiant DL360", "", "", wire.Known("HP ProLiant DL360")},
		{"vendor not filled in", "To Be Filled By O.E.M.", "X570", "", "", wire.Known("X570")},
		{"assembler filled in nothing", "System manufacturer", "System Product Name", "ASUSTeK COMPUTER INC.", "PRIME B450", wire.Known("ASUSTeK COMPUTER INC. PRIME B450")},
		{"nobody filled in anything", "Default string", "Default string", "Default string", "Default string", wire.Absent[string]()},
	} {
		t.Run(c.name, func(t *testing.T) {
			root := t.TempDir()
			put(t, root, "sys/bus/pci/uevent", "")
			for field, value := range map[string]string{"sys_vendor": c.vendor, "product_name": c.product, "board_vendor": c.bVendor, "board_name": c.bBoard} {
				put(t, root, dmi+field, value+"\n")
			}
			if got := Detect(Source{Root: root}).Model; got != c.want {
				t.Errorf("model %+v, want %+v", got, c.want)
			}
		})
	}
}

func TestPCIAccelerator(t *testing.T) {
	for _, c := range []struct {
		class, vendor, device uint64
		want                  string
	}{
		{0x030000, 0x10de, 0x1e30, nvidiaGPU},
		{0x030200, 0x10de, 0x1eb8, nvidiaGPU}, // 3D controller without an output
		{0x040300, 0x10de, 0x10f7, ""},        // its audio function
		{0x060400, 0x10de, 0x1ad1, ""},        // a Tegra root port
		{0x038000, 0x1002, 0x1638, amdGPU},
		{0x060000, 0x1002, 0x1630, ""},
		{0x030000, 0x8086, 0x4680, intelGPU},
		{0x020000, 0x8086, 0x15b8, ""},
		{0x0880ff, 0x1ac1, 0x089a, edgeTPU},
		{0x088000, 0x1ac1, 0x0001, ""},
		{0x0b4000, 0x1e60, 0x2864, hailoNPU},
		{0x030000, 0x102b, 0x0536, ""},
	} {
		if got := pciAccelerator(c.class, c.vendor, c.device); got != c.want {
			t.Errorf("%06x %04x:%04x is %q, want %q", c.class, c.vendor, c.device, got, c.want)
		}
		if c.want != "" && !pciVendor(c.vendor) {
			t.Errorf("vendor %04x is passed over", c.vendor)
		}
	}
}

func TestUSBAccelerator(t *testing.T) {
	for id, want := range map[[2]uint64]string{
		{0x1a6e, 0x089a}: edgeTPU,
		{0x18d1, 0x9302}: edgeTPU,
		{0x18d1, 0x4ee7}: "", // a phone
		{0x03e7, 0x2150}: movidiusVP,
		{0x03e7, 0x2485}: movidiusVP,
		{0x03e7, 0xf63b}: movidiusVP,
		{0x1d6b, 0x0002}: "",
	} {
		if got := usbAccelerator(id[0], id[1]); got != want {
			t.Errorf("%04x:%04x is %q, want %q", id[0], id[1], got, want)
		}
	}
}

// TestAcceleratorsOfAllKinds has two of a kind and one of each other in one machine.
func TestAcceleratorsOfAllKinds(t *testing.T) {
	root := plant(t, "jetson-xavier-nx")
	for name, id := range map[string][3]string{
		"0000:01:00.0": {"0x10de", "0x1eb8", "0x030200"},
		"0000:02:00.0": {"0x1ac1", "0x089a", "0x0880ff"},
		"0000:03:00.0": {"0x1e60", "0x2864", "0x0b4000"},
		"0000:04:00.0": {"0x1002", "0x1638", "0x030000"},
		"0000:05:00.0": {"0x8086", "0x4680", "0x030000"},
	} {
		dir := "sys/bus/pci/devices/" + name
		put(t, root, dir+"/vendor", id[0]+"\n")
		put(t, root, dir+"/device", id[1]+"\n")
		put(t, root, dir+"/class", id[2]+"\n")
	}
	for i, id := range [][2]string{{"1a6e", "089a"}, {"03e7", "2485"}} {
		dir := fmt.Sprintf("sys/bus/usb/devices/1-%d", i+1)
		put(t, root, dir+"/idVendor", id[0]+"\n")
		put(t, root, dir+"/idProduct", id[1]+"\n")
	}
	want := wire.Known([]string{amdGPU, edgeTPU, hailoNPU, intelGPU, movidiusVP, nvidiaGPU})
	if got := Detect(Source{Root: root}).Accelerators; !reflect.DeepEqual(got, want) {
		t.Errorf("accelerators %+v, want %+v", got, want)
	}
}

// TestMalformedSources checks that nonsense in a file makes its fact unknown.
func TestMalformedSources(t *testing.T) {
	for _, c := range []struct{ fact, path, content string }{
		{"RAMBytes", "/proc/meminfo", "MemTotal: lots\n"},
		{"CPUCores", "/sys/devices/system/cpu/online", "all\n"},
		{"Accelerators", "/sys/bus/pci/devices/0000:3b:00.0/class", "display\n"},
		{"Accelerators", "/sys/bus/pci/devices/0000:3b:00.0/device", "0x10000\n"},
		{"Accelerators", "/sys/bus/usb/devices/usb1/idVendor", "\x01\x02zz\n"},
	} {
		root := plant(t, "x86-server-nvidia")
		put(t, root, c.path, c.content)
		got := facts(Detect(Source{Root: root}))[c.fact]
		if got.state != wire.FactUnknown || !strings.HasPrefix(got.reason, "read "+c.path+": malformed:") {
			t.Errorf("%q in %s: %s is %+v, want unknown as malformed", c.content, c.path, c.fact, got)
		}
	}
}

// TestSourcesThatSayNothing empties files. What a machine need not have is then absent, what it must have unknown.
func TestSourcesThatSayNothing(t *testing.T) {
	root := plant(t, "jetson-xavier-nx")
	for name, content := range map[string]string{
		deviceTree + "model":             "\x00",
		deviceTree + "compatible":        "linux,dummy-virt\x00",
		"etc/os-release":                 "ID=nameless\n",
		"usr/lib/os-release":             "PRETTY_NAME=\"not asked\"\n",
		"proc/sys/kernel/osrelease":      "\n",
		"sys/devices/system/cpu/online":  "\n",
		"sys/bus/pci/devices/x/vendor":   "\n",
		"sys/bus/usb/devices/x/idVendor": "",
	} {
		put(t, root, name, content)
	}
	got := facts(Detect(Source{Root: root}))
	for _, name := range []string{"Model", "SoC", "OS"} {
		if got[name].state != wire.FactAbsent {
			t.Errorf("%s is %+v, want absent", name, got[name])
		}
	}
	if want := (seen{wire.FactUnknown, "", "read /proc/sys/kernel/osrelease: says nothing"}); got["Kernel"] != want {
		t.Errorf("kernel is %+v, want %+v", got["Kernel"], want)
	}
	if got["CPUCores"].state != wire.FactUnknown || got["Accelerators"].state != wire.FactValue {
		t.Errorf("cores are %+v, accelerators %+v; want unknown and a value", got["CPUCores"], got["Accelerators"])
	}
}

func TestCPUInfoWithoutProcessors(t *testing.T) {
	root := plant(t, "microvm")
	if err := os.Remove(root + "/sys/devices/system/cpu/online"); err != nil {
		t.Fatal(err)
	}
	put(t, root, "proc/cpuinfo", "flags : none\n")
	want := wire.Unknown[uint32]("read /proc/cpuinfo: malformed: no processor entry")
	if got := Detect(Source{Root: root}).CPUCores; got != want {
		t.Errorf("cores %+v, want %+v", got, want)
	}
}

func TestMACs(t *testing.T) {
	root := t.TempDir()
	nic := func(name, address, kind string, device bool) {
		put(t, root, "sys/class/net/"+name+"/address", address+"\n")
		put(t, root, "sys/class/net/"+name+"/addr_assign_type", kind+"\n")
		if device {
			put(t, root, "sys/class/net/"+name+"/device/uevent", "")
		}
	}
	nic("eth0", "DC:A6:32:00:00:02", "0", true)
	nic("eth1", "dc:a6:32:00:00:01", "0", true)
	nic("bond1", "dc:a6:32:00:00:01", "3", true)  // the same address as a member
	nic("random", "02:00:00:00:00:01", "1", true) // drawn at boot
	nic("veth", "02:00:00:00:00:02", "3", false)  // no device
	nic("zero", "00:00:00:00:00:00", "0", true)   // none assigned
	nic("multi", "01:00:5e:00:00:01", "0", true)  // a group's
	nic("ib0", "80:00:02:08:fe:80:00:00:00:00:00:00:00:02:c9:03:00:00:00:01", "0", true)
	nic("broken", "not an address", "0", true)
	want := []string{"dc:a6:32:00:00:01", "dc:a6:32:00:00:02"}
	if got := Detect(Source{Root: root}).Hints.MACs; !slices.Equal(got, want) {
		t.Errorf("addresses %q, want %q", got, want)
	}
	for i := range 40 {
		nic(fmt.Sprint("en", i), fmt.Sprintf("dc:a6:33:00:00:%02x", i), "0", true)
	}
	got := Detect(Source{Root: root}).Hints.MACs
	if len(got) != maxMACs || !slices.IsSorted(got) {
		t.Errorf("%d addresses %q, want %d sorted", len(got), got, maxMACs)
	}
}

func TestSerialAndMachineID(t *testing.T) {
	root := t.TempDir()
	check := func(serial, id string) {
		t.Helper()
		if got := Detect(Source{Root: root}).Hints; got.Serial != serial || got.MachineID != id {
			t.Errorf("hints %+v, want serial %q and machine id %q", got, serial, id)
		}
	}
	put(t, root, "var/lib/dbus/machine-id", "00112233445566778899aabbccddeeff\n")
	put(t, root, dmi+"product_serial", "System Serial Number\n")
	check("", "00112233445566778899aabbccddeeff")
	put(t, root, dmi+"product_serial", "CZ1234\n")
	put(t, root, deviceTree+"serial-number", "0000000000000000\x00")
	put(t, root, "etc/machine-id", "00112233445566778899AABBCCDDEEFF\n")
	check("CZ1234", "")
	put(t, root, "etc/machine-id", "00112233\n")
	check("CZ1234", "")
	put(t, root, deviceTree+"serial-number", "1420020012345\x00")
	put(t, root, "etc/machine-id", "ffeeddccbbaa99887766554433221100\n")
	check("1420020012345", "ffeeddccbbaa99887766554433221100")
}
