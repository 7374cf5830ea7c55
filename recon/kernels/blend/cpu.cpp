// SPDX-License-Identifier: Apache-2.0
// CPU scheduler of blending.  A thread owns a tile of 16×16 pixels, cut into blocks of one pack: 4×4 pixels with
// AVX-512, 4×2 and 4×1 on narrower instruction sets.  For a batch of the tile's entries it is found which blocks each
// ellipse reaches, and only those are looked at, as long as they let light through.
//
// Forward goes block by block: what belongs to its pixels stays in registers while the batch streams by.  Backward goes
// through the list front to back again, entry by entry, since a Gaussian's gradient is the larger state: it is gathered
// in registers over the blocks, reduced once per pair and written to that pair's own place, and a second loop, whose
// threads own Gaussians, sums the pairs of each in a fixed order.  So nothing is atomic and results do not depend on the
// number of threads.
#include "recon/kernels/blend/backward.h"
#include "recon/kernels/blend/forward.h"
#include "recon/kernels/common/binding.h"

namespace recon {
namespace {

void blend_forward(const BlendParams& p) {
    switch (p.channel_count) {
        case 1: return forward<1>(p);
        case 3: return forward<3>(p);
        case 4: return forward<4>(p);
        case 7: return forward<7>(p);
        default: return forward<0>(p);
    }
}

void blend_backward(const BlendParams& p) {
    switch (p.channel_count) {
        case 1: return backward<1>(p);
        case 3: return backward<3>(p);
        case 4: return backward<4>(p);
        case 7: return backward<7>(p);
        default: return backward<0>(p);
    }
}

}  // namespace

void bind_blend(nb::module_& m) {
    auto c = nb::class_<BlendParams>(m, "BlendParams").def(nb::init<>());
    RECON_BIND_POINTER(c, BlendParams, means_px);
    RECON_BIND_POINTER(c, BlendParams, conics);
    RECON_BIND_POINTER(c, BlendParams, opacities);
    RECON_BIND_POINTER(c, BlendParams, channels);
    RECON_BIND_POINTER(c, BlendParams, depths);
    RECON_BIND_POINTER(c, BlendParams, slopes);
    RECON_BIND_POINTER(c, BlendParams, background);
    RECON_BIND_POINTER(c, BlendParams, offsets);
    RECON_BIND_POINTER(c, BlendParams, entries);
    RECON_BIND_POINTER(c, BlendParams, pair_starts);
    RECON_BIND_POINTER(c, BlendParams, out_channels);
    RECON_BIND_POINTER(c, BlendParams, out_alpha);
    RECON_BIND_POINTER(c, BlendParams, median_depth);
    RECON_BIND_POINTER(c, BlendParams, records);
    RECON_BIND_POINTER(c, BlendParams, processed);
    RECON_BIND_POINTER(c, BlendParams, counts);
    RECON_BIND_POINTER(c, BlendParams, grad_out_channels);
    RECON_BIND_POINTER(c, BlendParams, grad_out_alpha);
    RECON_BIND_POINTER(c, BlendParams, pair_gradients);
    RECON_BIND_POINTER(c, BlendParams, grad_means_px);
    RECON_BIND_POINTER(c, BlendParams, grad_conics);
    RECON_BIND_POINTER(c, BlendParams, grad_opacities);
    RECON_BIND_POINTER(c, BlendParams, grad_channels);
    RECON_BIND_POINTER(c, BlendParams, grad_means_abs);
    RECON_BIND_POINTER(c, BlendParams, weight_sum);
    RECON_BIND_POINTER(c, BlendParams, weight_max);
    RECON_BIND_POINTER(c, BlendParams, gradient_sum);
    RECON_BIND_POINTER(c, BlendParams, seen);
    RECON_BIND_POINTER(c, BlendParams, most_weight);
    RECON_BIND_VALUE(c, BlendParams, count);
    RECON_BIND_VALUE(c, BlendParams, channel_count);
    RECON_BIND_VALUE(c, BlendParams, slope_channel);
    RECON_BIND_VALUE(c, BlendParams, record_stride);
    RECON_BIND_VALUE(c, BlendParams, pair_stride);
    RECON_BIND_VALUE(c, BlendParams, width);
    RECON_BIND_VALUE(c, BlendParams, height);
    RECON_BIND_VALUE(c, BlendParams, log2_cutoff);
    m.attr("blend_record_floats") = static_cast<int>(kRecordChannels);
    m.attr("blend_pair_floats") = static_cast<int>(kPairChannels);
    m.attr("blend_statistics") = static_cast<int>(kPairStatistics) + 1;
    m.attr("blend_density_statistics") = static_cast<int>(kWeightSum) + 1;
    m.def("blend_forward", &blend_forward, nb::call_guard<nb::gil_scoped_release>());
    m.def("blend_backward", &blend_backward, nb::call_guard<nb::gil_scoped_release>());
}

}  // namespace recon
