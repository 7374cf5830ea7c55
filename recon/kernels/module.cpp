// SPDX-License-Identifier: Apache-2.0
// The extension module.  It is built once per instruction set (RECON_MODULE names it); recon/kernels/native.py loads
// the best one.  A new operation adds its bind function to the two lists here and its cpu.cpp to CMakeLists.txt.
#include <nanobind/stl/string.h>
#include <omp.h>

#include <string>

#include "recon/kernels/common/binding.h"
#include "recon/kernels/common/simd.h"

namespace recon {
void bind_adam(nb::module_& m);
void bind_binning(nb::module_& m);
void bind_blend(nb::module_& m);
void bind_mlp(nb::module_& m);
void bind_composite(nb::module_& m);
void bind_hash_encoding(nb::module_& m);
void bind_occupancy(nb::module_& m);
void bind_palette(nb::module_& m);
void bind_ssim(nb::module_& m);
void bind_projection(nb::module_& m);
void bind_rearrange(nb::module_& m);
void bind_raycast(nb::module_& m);
void bind_ray_march(nb::module_& m);
void bind_ray_proposal(nb::module_& m);
void bind_table_adam(nb::module_& m);
void bind_tsdf(nb::module_& m);
void bind_marching_cubes(nb::module_& m);
void bind_triangles(nb::module_& m);
void bind_update(nb::module_& m);
}  // namespace recon

#if RECON_DETECTS
namespace {
// The best instruction set that this processor and its operating system offer.
std::string detect_isa() {
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl"))
        return "avx512";
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return "avx2";
#endif
    return "baseline";
}
}  // namespace
#endif

NB_MODULE(RECON_MODULE, m) {
    m.attr("lanes") = recon::kLanes;
    m.def("max_threads", &omp_get_max_threads);
    m.def("set_threads", &omp_set_num_threads);
#if RECON_DETECTS
    m.def("detect_isa", &detect_isa);
#endif
    recon::bind_adam(m);
    recon::bind_binning(m);
    recon::bind_blend(m);
    recon::bind_mlp(m);
    recon::bind_composite(m);
    recon::bind_hash_encoding(m);
    recon::bind_occupancy(m);
    recon::bind_palette(m);
    recon::bind_ssim(m);
    recon::bind_projection(m);
    recon::bind_rearrange(m);
    recon::bind_raycast(m);
    recon::bind_ray_march(m);
    recon::bind_ray_proposal(m);
    recon::bind_table_adam(m);
    recon::bind_tsdf(m);
    recon::bind_marching_cubes(m);
    recon::bind_triangles(m);
    recon::bind_update(m);
}
