// SPDX-License-Identifier: Apache-2.0
// CPU scheduler of the triangle rasterizer: a first pass bounds every triangle in the picture, then a thread owns a
// band of rows and draws the triangles that touch it in their order, so that the nearest (of equals the first) wins
// whatever the number of threads.
#include <cmath>

#include "recon/kernels/common/binding.h"
#include "recon/kernels/triangles/math.h"
#include "recon/kernels/triangles/params.h"

namespace recon {
namespace {

constexpr int32_t kBandRows = 8;

double clamp(double value, double low, double high) { return value < low ? low : value > high ? high : value; }

void bound_face(const TrianglesParams& p, int64_t face) {
    int32_t* out = p.bounds + 4 * face;
    out[0] = out[2] = 0;
    out[1] = out[3] = -1;
    double left = 1e30, right = -1e30, top = 1e30, bottom = -1e30;
    int behind = 0;
    for (int k = 0; k < 3; ++k) {
        const double* v = p.vertices + 3 * static_cast<int64_t>(p.faces[3 * face + k]);
        if (!std::isfinite(v[0] + v[1] + v[2])) return;
        if (v[2] < p.near) {
            ++behind;
            continue;
        }
        const double u = p.fx * v[0] / v[2] + p.cx, w = p.fy * v[1] / v[2] + p.cy;
        left = std::fmin(left, u);
        right = std::fmax(right, u);
        top = std::fmin(top, w);
        bottom = std::fmax(bottom, w);
    }
    if (behind == 3) return;
    if (behind > 0) {  // the part in front may reach anywhere in the picture
        left = top = 0;
        right = p.width;
        bottom = p.height;
    }
    // Pixel centres lie at +0.5.
    out[0] = static_cast<int32_t>(std::ceil(clamp(left - 0.5, 0, p.width)));
    out[1] = static_cast<int32_t>(std::floor(clamp(right - 0.5, -1, p.width - 1)));
    out[2] = static_cast<int32_t>(std::ceil(clamp(top - 0.5, 0, p.height)));
    out[3] = static_cast<int32_t>(std::floor(clamp(bottom - 0.5, -1, p.height - 1)));
}

struct Setup {
    EdgeFunction<double> edge[3];  // opposite to the corners
    double determinant;
};

// The side from corner i to corner j, computed from the lower vertex number to the higher.
EdgeFunction<double> side(const TrianglesParams& p, int32_t i, int32_t j) {
    const bool ordered = i < j;
    const double* u = p.vertices + 3 * static_cast<int64_t>(ordered ? i : j);
    const double* v = p.vertices + 3 * static_cast<int64_t>(ordered ? j : i);
    return edge_function(u[0], u[1], u[2], v[0], v[1], v[2], ordered ? 1.0 : -1.0);
}

Setup set_up(const TrianglesParams& p, const int32_t* face) {
    Setup s;
    for (int k = 0; k < 3; ++k) s.edge[k] = side(p, face[(k + 1) % 3], face[(k + 2) % 3]);
    const double* a = p.vertices + 3 * static_cast<int64_t>(face[0]);
    s.determinant = a[0] * s.edge[0].x + a[1] * s.edge[0].y + a[2] * s.edge[0].z;
    return s;
}

void draw_face(const TrianglesParams& p, int64_t face, int32_t first_row, int32_t last_row) {
    const int32_t* bounds = p.bounds + 4 * face;
    const Setup s = set_up(p, p.faces + 3 * face);
    // Counter-clockwise seen from outside is clockwise in camera coordinates with y down: the determinant is negative.
    if (s.determinant == 0.0 || (p.cull && s.determinant > 0.0)) return;
    const double sign = s.determinant > 0.0 ? 1.0 : -1.0;
    const double determinant = s.determinant * sign;
    for (int32_t row = first_row; row <= last_row; ++row) {
        const double y = (row + 0.5 - p.cy) / p.fy;
        for (int32_t column = bounds[0]; column <= bounds[1]; ++column) {
            const double x = (column + 0.5 - p.cx) / p.fx;
            const double a = sign * s.edge[0].at(x, y), b = sign * s.edge[1].at(x, y), c = sign * s.edge[2].at(x, y);
            if (!(a >= 0.0 && b >= 0.0 && c >= 0.0)) continue;
            const double sum = a + b + c, depth = determinant / sum;
            if (!(depth >= p.near)) continue;
            const int64_t pixel = static_cast<int64_t>(row) * p.width + column;
            if (p.face_ids[pixel] >= 0 && static_cast<float>(depth) >= p.depth[pixel]) continue;
            p.face_ids[pixel] = static_cast<int32_t>(face);
            p.depth[pixel] = static_cast<float>(depth);
            p.barycentric[2 * pixel] = static_cast<float>(b / sum);
            p.barycentric[2 * pixel + 1] = static_cast<float>(c / sum);
        }
    }
}

void draw_band(const TrianglesParams& p, int32_t first_row) {
    const int32_t last_row = first_row + kBandRows < p.height ? first_row + kBandRows - 1 : p.height - 1;
    const int64_t begin = static_cast<int64_t>(first_row) * p.width;
    const int64_t end = static_cast<int64_t>(last_row + 1) * p.width;
    for (int64_t i = begin; i < end; ++i) {
        p.face_ids[i] = -1;
        p.depth[i] = p.barycentric[2 * i] = p.barycentric[2 * i + 1] = 0.0f;
    }
    for (int64_t face = 0; face < p.face_count; ++face) {
        const int32_t* bounds = p.bounds + 4 * face;
        const int32_t top = bounds[2] > first_row ? bounds[2] : first_row;
        const int32_t bottom = bounds[3] < last_row ? bounds[3] : last_row;
        if (top <= bottom && bounds[0] <= bounds[1]) draw_face(p, face, top, bottom);
    }
}

void triangles_draw(const TrianglesParams& p) {
#pragma omp parallel
    {
#pragma omp for schedule(static)
        for (int64_t face = 0; face < p.face_count; ++face) bound_face(p, face);
#pragma omp for schedule(dynamic)
        for (int32_t row = 0; row < p.height; row += kBandRows) draw_band(p, row);
    }
}

}  // namespace

void bind_triangles(nb::module_& m) {
    auto c = nb::class_<TrianglesParams>(m, "TrianglesParams").def(nb::init<>());
    RECON_BIND_POINTER(c, TrianglesParams, vertices);
    RECON_BIND_POINTER(c, TrianglesParams, faces);
    RECON_BIND_VALUE(c, TrianglesParams, face_count);
    RECON_BIND_VALUE(c, TrianglesParams, width);
    RECON_BIND_VALUE(c, TrianglesParams, height);
    RECON_BIND_VALUE(c, TrianglesParams, fx);
    RECON_BIND_VALUE(c, TrianglesParams, fy);
    RECON_BIND_VALUE(c, TrianglesParams, cx);
    RECON_BIND_VALUE(c, TrianglesParams, cy);
    RECON_BIND_VALUE(c, TrianglesParams, near);
    RECON_BIND_VALUE(c, TrianglesParams, cull);
    RECON_BIND_POINTER(c, TrianglesParams, bounds);
    RECON_BIND_POINTER(c, TrianglesParams, face_ids);
    RECON_BIND_POINTER(c, TrianglesParams, depth);
    RECON_BIND_POINTER(c, TrianglesParams, barycentric);
    m.def("triangles_draw", &triangles_draw, nb::call_guard<nb::gil_scoped_release>());
}

}  // namespace recon
