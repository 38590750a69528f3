//go:build !race

package sim

// defaultSeeds is how many storms a run of the tests has.
const defaultSeeds = 100

// conserveSeeds is how many worlds of TestConservation it has.
const conserveSeeds = 100

// lightSeeds is how many worlds of TestConservationLight it has.
const lightSeeds = 5000

// cutDevices and cutHours are how large TestLongCut is.
const cutDevices, cutHours = 50, 2

// nearDevices is how many devices TestNearestGateway has.
const nearDevices = 3
