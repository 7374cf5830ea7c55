// SPDX-License-Identifier: Apache-2.0
// How a kernel becomes a Python function without copying and without torch: one params struct per operation, bound
// with its fields by name.  Pointers are set from Python as integers (`tensor.data_ptr()`, 0.2 µs each; passing arrays
// through nanobind's ndarray costs 2 to 4 µs each).  The Python side (`op.py`) checks shapes, types and contiguity.
#pragma once

#include <nanobind/nanobind.h>

#include <cstdint>

namespace nb = nanobind;

// Binds the pointer `FIELD` of `STRUCT` as an integer property.
#define RECON_BIND_POINTER(CLASS, STRUCT, FIELD)                                       \
    (CLASS).def_prop_rw(                                                               \
        #FIELD, [](const STRUCT& p) { return reinterpret_cast<uintptr_t>(p.FIELD); },  \
        [](STRUCT& p, uintptr_t address) {                                             \
            p.FIELD = reinterpret_cast<decltype(p.FIELD)>(address);                    \
        })

// Binds the number `FIELD` of `STRUCT`.
#define RECON_BIND_VALUE(CLASS, STRUCT, FIELD) (CLASS).def_rw(#FIELD, &STRUCT::FIELD)
