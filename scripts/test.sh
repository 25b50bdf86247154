#!/bin/bash
# Installs what the tests need and runs all of them. Some need root (network
# namespaces, TAPs) and all of the KVM tests need /dev/kvm; a test whose need is
# not met fails and says what to do, unless UVM_TEST_NO_KVM=1 or
# UVM_TEST_NO_ROOT=1 says that this is meant.
set -euo pipefail
source "$(dirname "$0")/setup.sh"
cd "$repo"
make --no-print-directory test
