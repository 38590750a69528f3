package wire

// GossipMeta is what a gateway says of itself in the gossip of its site. It is advice on whom to ask first, and nothing else: any
// gateway of the site can say it of any other.
type GossipMeta struct {
	Capability  uint32 `cbor:"1,keyasint"`
	Uplink      bool   `cbor:"2,keyasint,omitempty"` // it has a session with the core that no sibling relays
	Sessions    uint32 `cbor:"3,keyasint,omitempty"` // of agents, to two digits
	Busy        uint32 `cbor:"4,keyasint,omitempty"` // share of its processors that its process keeps busy, percent, in tens
	MirrorEpoch uint64 `cbor:"5,keyasint,omitempty"` // cluster epoch of Mirror
	Mirror      uint64 `cbor:"6,keyasint,omitempty"` // number of the newest device entry of the site that it has; 0: none
	ListEpoch   uint64 `cbor:"7,keyasint,omitempty"` // cluster epoch of List
	List        uint64 `cbor:"8,keyasint,omitempty"` // number of the gateway list that it has; 0: none
}

// MaxMeta bounds an encoded GossipMeta, in bytes.
const MaxMeta = 512

// MirrorAsk asks a sibling for what the authority signed about the site, in a session of its own. The answer is one MirrorPage
// or more.
type MirrorAsk struct {
	AfterEpoch uint64 `cbor:"1,keyasint,omitempty"` // cluster epoch of After
	After      uint64 `cbor:"2,keyasint,omitempty"` // device entries of higher numbers are wanted
	ListEpoch  uint64 `cbor:"3,keyasint,omitempty"` // cluster epoch of List
	List       uint64 `cbor:"4,keyasint,omitempty"` // a gateway list of a higher number is wanted
}

// MirrorPage brings some of it. That it is all proves nothing: a sibling may keep something back.
type MirrorPage struct {
	Entries [][]byte `cbor:"1,keyasint,omitempty"` // each a seal.DeviceEntry of the site, by cluster epoch and number, at most MaxPage
	List    []byte   `cbor:"2,keyasint,omitempty"` // a seal.GatewayList of the site; empty: none that is newer
	More    bool     `cbor:"3,keyasint,omitempty"` // another page follows
	Orders  [][]byte `cbor:"4,keyasint,omitempty"` // each a seal.Order, the newest of a device whose entry is in the page, at most one each
}

// MaxPage bounds the entries of a MirrorPage.
const MaxPage = 256
