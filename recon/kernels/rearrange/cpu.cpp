// SPDX-License-Identifier: Apache-2.0
// Moves rows within memory without a second copy.  A thread owns an array.
//
// Sources never descend, so the rows fall into stretches that all move down, all move up or all stay.  Stretches are
// done in order, those that move down from their start and those that move up from their end.  Then no row is
// overwritten before it is read: a stretch that moves up reads only rows before its end and after whatever the stretch
// before it wrote; a stretch that moves down may read rows of the next one, which comes later.
#include <cstring>

#include "recon/kernels/common/binding.h"
#include "recon/kernels/rearrange/params.h"

namespace recon {
namespace {

class Rows {
public:
    Rows(const RearrangeParams& p, int64_t array)
        : memory_(reinterpret_cast<char*>(p.addresses[array])), bytes_(p.row_bytes[array]), sources_(p.sources),
          count_(p.count) {}

    void move() {
        for (int64_t row = 0; row < count_;) {
            if (sources_[row] == row) {
                ++row;
            } else if (sources_[row] > row) {
                row = move_down(row);
            } else {
                row = move_up(row);
            }
        }
    }

private:
    // Rows whose sources lie side by side are moved in one go.
    int64_t move_down(int64_t row) {
        while (row < count_ && sources_[row] > row) {
            int64_t end = row + 1;
            while (end < count_ && sources_[end] == sources_[end - 1] + 1) ++end;
            copy(row, end - row);
            row = end;
        }
        return row;
    }
    int64_t move_up(int64_t begin) {
        int64_t end = begin;
        while (end < count_ && sources_[end] < end) ++end;
        for (int64_t last = end; last > begin;) {
            int64_t first = last - 1;
            while (first > begin && sources_[first - 1] + 1 == sources_[first]) --first;
            copy(first, last - first);
            last = first;
        }
        return end;
    }
    void copy(int64_t row, int64_t rows) {
        std::memmove(memory_ + row * bytes_, memory_ + sources_[row] * bytes_, static_cast<size_t>(rows * bytes_));
    }

    char* memory_;
    int64_t bytes_;
    const int64_t* sources_;
    int64_t count_;
};

void move_rows(const RearrangeParams& p) {
#pragma omp parallel for schedule(dynamic, 1)
    for (int64_t array = 0; array < p.arrays; ++array) Rows(p, array).move();
}

}  // namespace

void bind_rearrange(nb::module_& m) {
    auto c = nb::class_<RearrangeParams>(m, "RearrangeParams").def(nb::init<>());
    RECON_BIND_POINTER(c, RearrangeParams, addresses);
    RECON_BIND_POINTER(c, RearrangeParams, row_bytes);
    RECON_BIND_VALUE(c, RearrangeParams, arrays);
    RECON_BIND_POINTER(c, RearrangeParams, sources);
    RECON_BIND_VALUE(c, RearrangeParams, count);
    m.def("move_rows", &move_rows, nb::call_guard<nb::gil_scoped_release>());
}

}  // namespace recon
