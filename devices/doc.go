// Package devices holds what is common to everything a guest can reach: the
// contract of a device, the bus that finds it by port, and the interfaces of
// the host's side. It knows nothing of KVM.
package devices
