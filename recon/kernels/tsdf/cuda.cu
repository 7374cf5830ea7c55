// SPDX-License-Identifier: Apache-2.0
// CUDA scheduler of fusing a depth map: a block owns a block of 8×8×8 voxels, a thread two of them.
#include "recon/kernels/cuda/device.h"
#include "recon/kernels/tsdf/math.h"
#include "recon/kernels/tsdf/params.h"

namespace recon {
namespace {

// The voxel in the camera's frame.  Corners are placed in double: the lattice may be far from its origin.
RECON_FN void place_voxel(const TsdfView& view, const int32_t* block, int voxel, float (&q)[3]) {
    const double x = kBlockSide * static_cast<double>(block[0]), y = kBlockSide * static_cast<double>(block[1]);
    const double z = kBlockSide * static_cast<double>(block[2]);
    const float lx = static_cast<float>(voxel % kBlockSide), ly = static_cast<float>(voxel / kBlockSide % kBlockSide);
    const float lz = static_cast<float>(voxel / (kBlockSide * kBlockSide));
    for (int k = 0; k < 3; ++k) {
        const double* row = view.cam_from_grid + 4 * k;
        const float corner = static_cast<float>(row[0] * x + row[1] * y + row[2] * z + row[3]);
        q[k] = fma_(lx, static_cast<float>(row[0]),
                    fma_(ly, static_cast<float>(row[1]), fma_(lz, static_cast<float>(row[2]), corner)));
    }
}

RECON_FN float inverse_depth_at(const TsdfIntegrateParams& p, float u, float v, int32_t nearest) {
    const int32_t width = p.view.width, height = p.view.height;
    const float x = fmax_(u - 0.5f, 0.0f), y = fmax_(v - 0.5f, 0.0f);
    const int32_t x0 = static_cast<int32_t>(x), y0 = static_cast<int32_t>(y);
    const int32_t x1 = x0 + 1 < width ? x0 + 1 : x0, y1 = y0 + 1 < height ? y0 + 1 : y0;
    const float* map = p.view.inverse_depth;
    return interpolate_inverse_depth(map[y0 * width + x0], map[y0 * width + x1], map[y1 * width + x0],
                                     map[y1 * width + x1], x - static_cast<float>(x0), y - static_cast<float>(y0),
                                     map[nearest], p.jump);
}

RECON_FN void integrate_voxel(const TsdfIntegrateParams& p, int64_t block, int voxel) {
    const TsdfView& view = p.view;
    float q[3];
    place_voxel(view, p.blocks + 3 * block, voxel, q);
    if (!(q[2] > 0.0f)) return;
    const ProjectedVoxel<float> pixel = project_voxel(q[0], q[1], q[2], view.fx, view.fy, view.cx, view.cy);
    const bool inside = pixel.u >= 0.0f && pixel.u < static_cast<float>(view.width) && pixel.v >= 0.0f &&
                        pixel.v < static_cast<float>(view.height);
    if (!inside) return;
    const int32_t nearest = static_cast<int32_t>(pixel.v) * view.width + static_cast<int32_t>(pixel.u);
    const Observation<float> seen = observe_voxel(pixel.z, inverse_depth_at(p, pixel.u, pixel.v, nearest),
                                                  view.slant[nearest], view.confidence[nearest], 1.0f / p.truncation);
    if (!(seen.weight > 0.0f)) return;
    const int64_t at = block * kBlockVoxels + voxel;
    p.distance_sum[at] = fma_(seen.weight, seen.distance, p.distance_sum[at]);
    p.weight_sum[at] += seen.weight;
    if (view.color == nullptr || !(seen.distance < 1.0f)) return;
    const int64_t plane = static_cast<int64_t>(view.width) * view.height;
    float* color = p.color_sum + block * 4 * kBlockVoxels + voxel;
    for (int k = 0; k < 3; ++k)
        color[k * kBlockVoxels] = fma_(seen.weight, view.color[k * plane + nearest], color[k * kBlockVoxels]);
    color[3 * kBlockVoxels] += seen.weight;
}

}  // namespace
}  // namespace recon

using namespace recon;

RECON_KERNEL(tsdf_integrate, TsdfIntegrateParams, 256) {
    for (int voxel = static_cast<int>(threadIdx.x); voxel < kBlockVoxels; voxel += 256)
        integrate_voxel(p, static_cast<int64_t>(blockIdx.x), voxel);
}
