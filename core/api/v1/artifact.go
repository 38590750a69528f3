package v1

import "time"

// Desired is what a device should run.
type Desired struct {
	Version     uint64       `json:"version" doc:"number of the order; 0: nothing was ever assigned"`
	Assignments []Assignment `json:"assignments" nullable:"false" doc:"in order of slot"`
}

// Assignment is one slot's desired artifact.
type Assignment struct {
	Slot      string     `json:"slot"`
	Artifact  string     `json:"artifact" doc:"digest; empty: the slot is to run nothing"`
	Name      string     `json:"name"`
	Version   string     `json:"version"`
	Attempt   uint32     `json:"attempt" doc:"grows when an operator wants what failed tried again"`
	Downgrade bool       `json:"downgrade,omitempty" doc:"a lower release number than before is wanted"`
	Order     uint64     `json:"order" doc:"number of the order with which it came"`
	Since     *time.Time `json:"since"`
	By        string     `json:"by" doc:"id of an operator"`
}

// Reported is what a device stated of its slots.
type Reported struct {
	Version uint64 `json:"version" doc:"the highest order that it stated anything of; 0: of none"`
	Slots   []Slot `json:"slots" nullable:"false" doc:"in order of slot"`
}

// Slot is what a device stated last of one slot.
type Slot struct {
	Status
	Epoch    uint64    `json:"epoch" doc:"with seq the statement in the device's history"`
	Seq      uint64    `json:"seq"`
	StatedAt time.Time `json:"stated_at" doc:"by the device's clock"`
	At       time.Time `json:"at" doc:"when it was committed"`
	Since    time.Time `json:"since" doc:"when the first statement of this state was committed"`
}

// Status is what a device states of one slot.
type Status struct {
	Slot           string `json:"slot"`
	State          string `json:"state" doc:"downloading, verifying, applying, healthy, rolled_back, failed, drifted or removed; later versions may add some"`
	Artifact       string `json:"artifact" doc:"digest of what was assigned; empty: nothing"`
	Name           string `json:"name,omitempty" doc:"absent: the core does not have the artifact any more"`
	Version        string `json:"version,omitempty"`
	Order          uint64 `json:"order" doc:"number of the order"`
	Attempt        uint32 `json:"attempt"`
	Reason         string `json:"reason,omitempty" doc:"a word for programs"`
	Detail         string `json:"detail,omitempty" doc:"for people"`
	TotalBytes     uint64 `json:"total_bytes,omitempty" doc:"of the artifact's files"`
	FetchedBytes   uint64 `json:"fetched_bytes,omitempty" doc:"that came over the link so far"`
	SavedBytes     uint64 `json:"saved_bytes,omitempty" doc:"of the files that did not have to come"`
	Running        string `json:"running" doc:"digest of what runs; empty: nothing"`
	RunningName    string `json:"running_name,omitempty"`
	RunningVersion string `json:"running_version,omitempty"`
}

// Alarm is a refusal of what no honest peer would bring a device.
type Alarm struct {
	Reason string `json:"reason"`
	Detail string `json:"detail,omitempty"`
}

// SetSlot assigns an artifact to a slot.
type SetSlot struct {
	Artifact  string `json:"artifact" maxLength:"140" doc:"digest, at least 8 digits of it, or NAME@VERSION"`
	Downgrade bool   `json:"downgrade,omitempty" doc:"permit a lower release number than the highest that was healthy in the slot"`
}

// Artifact is one version of what devices can be assigned.
type Artifact struct {
	Digest       string    `json:"digest" doc:"SHA-256 of its manifest"`
	Name         string    `json:"name"`
	Version      string    `json:"version"`
	Number       uint64    `json:"number" doc:"of the release: grows from release to release of a name"`
	Kind         string    `json:"kind" enum:"tree,file"`
	Size         uint64    `json:"size" doc:"bytes of its files"`
	ManifestSize uint64    `json:"manifest_size" doc:"bytes"`
	Chunks       uint64    `json:"chunks" doc:"distinct ones"`
	Publisher    string    `json:"publisher" doc:"name of the signer when it was added"`
	Signer       string    `json:"signer" doc:"SHA-256 of the signer's public key"`
	Devices      int       `json:"devices" doc:"that it is assigned to, of those that the operator sees"`
	AddedAt      time.Time `json:"added_at"`
	AddedBy      string    `json:"added_by" doc:"id of an operator"`
	Release      string    `json:"release" doc:"base64 of the release as its publisher signed it"`
}

// PublisherSet says who may publish, from its time on until the next.
type PublisherSet struct {
	Number     uint64      `json:"number"`
	Publishers []Publisher `json:"publishers" nullable:"false"`
	Roots      []string    `json:"roots" nullable:"false" doc:"SHA-256 of each root key, which sign the next set"`
	Threshold  int         `json:"threshold" doc:"how many root keys must sign the next set"`
	SetAt      time.Time   `json:"set_at"`
	SetBy      string      `json:"set_by" doc:"id of an operator"`
	Sealed     string      `json:"sealed" doc:"base64 of the set as signed"`
}

// Publisher may sign releases.
type Publisher struct {
	Name string `json:"name"`
	Key  string `json:"key" doc:"SHA-256 of its public key"`
}

// SetPublishers brings the next set of publishers.
type SetPublishers struct {
	Payload string `json:"payload,omitempty" doc:"set 1: base64 of the set (CBOR), which the core has its authority sign"`
	Sealed  string `json:"sealed,omitempty" doc:"later sets: base64 of the set with signatures of enough root keys of the set before"`
}

// Content is the limit of what a site's gateways fetch over the WAN.
type Content struct {
	BytesPerSecond uint64 `json:"bytes_per_second" doc:"of all gateways of the site together; 0: no limit"`
	Window         string `json:"window" doc:"when it may be fetched, each day in UTC; empty: always"`
}

// Explanation is what is known of a device and what is assigned to it.
type Explanation struct {
	Device string    `json:"device" format:"uuid"`
	At     time.Time `json:"at"`
	Facts  []Fact    `json:"facts" nullable:"false"`
}

// Fact is one thing that is known, or that it is not known.
type Fact struct {
	Slot  string     `json:"slot,omitempty" doc:"absent: of the device"`
	Topic string     `json:"topic" enum:"device,presence,order,assignment,reported,waits,next"`
	Text  string     `json:"text"`
	Since *time.Time `json:"since,omitempty"`
	Until *time.Time `json:"until,omitempty" doc:"deadline, or when it goes on"`
}
