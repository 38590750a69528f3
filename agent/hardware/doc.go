// Package hardware detects the profile of the machine that an agent runs on: model, SoC, architecture, cores, memory,
// accelerators, operating system, kernel, and hints for the operator who has to find the box.
//
// [Detect] reads files only, through [FS], so a tree copied from another board is detected by the code that runs on the
// real one. It starts no goroutine, keeps no state, executes no program and opens no device node. Reading a real machine
// takes a few milliseconds and, at any moment, memory for one small file.
//
// # What a fact says
//
// A fact is a value, absent or unknown (see [wire.FactState]). Sources are asked in the order of the table. A source
// that does not exist, or exists and says nothing, hands over to the next; a source that exists and cannot be read or
// understood makes the fact unknown, with the path and the error as the reason. The facts then differ in what it means
// that no source exists:
//
//	fact          sources, in order                                        no source exists
//	Model         device tree model; DMI system; DMI baseboard             absent: many boxes have neither
//	SoC           device tree compatible                                   absent: x86 has none
//	Arch          /proc/sys/kernel/arch; Source.Machine; Source.GOARCH     unknown: every kernel has a machine name
//	RAMBytes      MemTotal of /proc/meminfo                                unknown: /proc is not mounted
//	CPUCores      /sys/devices/system/cpu/online; /proc/cpuinfo            unknown: neither /sys nor /proc is mounted
//	Accelerators  PCI, USB and platform devices, all of them               absent: the machine has no such bus
//	OS            /etc/os-release, else /usr/lib/os-release                absent: a minimal image need not have one
//	Kernel        /proc/sys/kernel/osrelease                               unknown: /proc is not mounted
//
// Two refinements. Absence of a model, a SoC or an accelerator is claimed only where /sys/bus can be listed: without
// sysfs nothing was looked at, and the fact is unknown. Arch goes on to uname(2) also when the file fails, since that
// call cannot. A device that is unplugged while it is being looked at counts as not there.
//
// The hints have no states: whatever cannot be read is left out.
//
// # Why not ghw
//
// The library github.com/jaypipes/ghw (v0.27.0) reads much of this, but it turns most failed reads into "unknown", -1
// or an empty list with a line in the log, so absent and failed look alike, which is the one distinction that a fact
// must keep. It finds graphics cards through PCI addresses alone, hence none on a Jetson, and gives up on USB where
// /sys/bus/usb is missing. Without memory blocks in sysfs it searches the system log for the size of memory. It would
// also add about 2 MB to an agent that is to live in 16 MiB.
package hardware
