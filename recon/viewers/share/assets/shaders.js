// SPDX-License-Identifier: Apache-2.0
// Three passes.  "Projection" turns every packed splat into an ellipse in the picture, one texel each, so that nothing
// is computed once per corner.  "Ellipse" draws these, nearest first, into a half-float picture whose alpha is the light
// that still passes.  "Resolve" puts the background behind.
//
// The projection is that of the trainer (recon/kernels/projection/math.h): p = R (m - eye), W = J R with the slope
// clamped a little outside of the picture, B = W Q S, covariance B Bᵀ + 0.3 I, and its determinant as
// |b0 × b1|² + 0.3 tr(B Bᵀ) + 0.09, which loses no digits.  Packing: recon/viewers/share/packing.py.

const HEAD = `#version 300 es
precision highp float;
precision highp int;
precision highp sampler2D;
precision highp usampler2D;
`;

export const ROW = 2048;
export const QUADS = 128;

export const FULL_SCREEN_VERTEX = `${HEAD}
void main() {
  // One triangle that covers the picture.
  vec2 corner = vec2(gl_VertexID == 1 ? 3.0 : -1.0, gl_VertexID == 2 ? 3.0 : -1.0);
  gl_Position = vec4(corner, 0.0, 1.0);
}`;

export const PROJECTION_FRAGMENT = `${HEAD}
uniform usampler2D wordMap, labelMap, paletteMap;
uniform sampler2D chunkMap;
uniform vec3 right, down, forward, eye;
uniform vec2 focal, principal, viewport;
uniform vec4 slopes;       // Least and most x/z, least and most y/z.
uniform vec4 units;        // Of the four palettes.
uniform int degree;
uniform bool antialiased;
layout(location = 0) out uvec4 place;  // Centre and longer half axis, pixels.
layout(location = 1) out uvec4 look;   // Length of the shorter half axis, colour as halves, opacity.

const float BLUR = 0.3, NEAR = 0.01, CUTOFF = 1.0 / 255.0;

uint bits(uint word, int shift, int count) { return (word >> shift) & ((1u << count) - 1u); }

vec4 bytes(uint word) {
  return vec4(ivec4(int(word << 24), int(word << 16), int(word << 8), int(word)) >> 24);
}

// Four basis functions times their twelve signed bytes.
vec3 four(vec4 basis, uint a, uint b, uint c) {
  vec4 p = bytes(a), q = bytes(b), r = bytes(c);
  return basis.x * p.xyz + basis.y * vec3(p.w, q.xy) + basis.z * vec3(q.zw, r.x) + basis.w * r.yzw;
}

vec3 entry(int stage, uint label, vec4 one, vec4 two, vec4 three, vec4 rest) {
  int x = 3 * int(label);
  uvec4 a = texelFetch(paletteMap, ivec2(x, stage), 0);
  uvec4 b = texelFetch(paletteMap, ivec2(x + 1, stage), 0);
  uvec4 c = texelFetch(paletteMap, ivec2(x + 2, stage), 0);
  return units[stage] * (four(one, a.x, a.y, a.z) + four(two, a.w, b.x, b.y)
                         + four(three, b.z, b.w, c.x) + four(rest, c.y, c.z, c.w));
}

// The spherical harmonics of degree 1 to 3 (recon/kernels/projection/spherical_harmonics.py).
vec3 harmonics(vec3 d, uvec4 labels) {
  float xx = d.x * d.x, yy = d.y * d.y, zz = d.z * d.z;
  vec4 one = vec4(0.4886025119029199 * vec3(-d.y, d.z, -d.x), 1.0925484305920792 * d.x * d.y);
  vec4 two = vec4(-1.0925484305920792 * d.y * d.z, 0.31539156525252005 * (2.0 * zz - xx - yy),
                  -1.0925484305920792 * d.x * d.z, 0.5462742152960396 * (xx - yy));
  vec4 three = vec4(-0.5900435899266435 * d.y * (3.0 * xx - yy), 2.890611442640554 * d.x * d.y * d.z,
                    -0.4570457994644658 * d.y * (4.0 * zz - xx - yy),
                    0.3731763325901154 * d.z * (2.0 * zz - 3.0 * xx - 3.0 * yy));
  vec4 rest = vec4(-0.4570457994644658 * d.x * (4.0 * zz - xx - yy), 1.445305721320277 * d.z * (xx - yy),
                   -0.5900435899266435 * d.x * (xx - 3.0 * yy), 0.0);
  vec3 color = vec3(0.0);
  for (int stage = 0; stage < 4; stage++) color += entry(stage, labels[stage], one, two, three, rest);
  return color;
}

mat3 axes(uvec4 word) {
  vec3 three = (vec3(bits(word.y, 15, 8), bits(word.y, 23, 8), bits(word.z, 0, 8)) - 127.0) / 127.0 * sqrt(0.5);
  float last = sqrt(max(0.0, 1.0 - dot(three, three)));
  uint which = bits(word.y, 13, 2);
  vec4 q = which == 0u ? vec4(last, three) : which == 1u ? vec4(three.x, last, three.yz)
         : which == 2u ? vec4(three.xy, last, three.z) : vec4(three, last);
  float w = q.x, x = q.y, y = q.z, z = q.w;
  return mat3(1.0 - 2.0 * (y * y + z * z), 2.0 * (x * y + w * z), 2.0 * (x * z - w * y),
              2.0 * (x * y - w * z), 1.0 - 2.0 * (x * x + z * z), 2.0 * (y * z + w * x),
              2.0 * (x * z + w * y), 2.0 * (y * z - w * x), 1.0 - 2.0 * (x * x + y * y));
}

void main() {
  place = uvec4(0u);
  look = uvec4(0u);
  ivec2 at = ivec2(gl_FragCoord.xy);
  uvec4 word = texelFetch(wordMap, at, 0);
  float opacity = float(bits(word.w, 24, 8)) / 255.0;
  if (opacity < CUTOFF) return;
  // 18 numbers of the chunk stand in five texels.
  ivec2 c = ivec2(5 * (at.x >> 8), at.y);
  vec4 t0 = texelFetch(chunkMap, c, 0), t1 = texelFetch(chunkMap, c + ivec2(1, 0), 0);
  vec4 t2 = texelFetch(chunkMap, c + ivec2(2, 0), 0), t3 = texelFetch(chunkMap, c + ivec2(3, 0), 0);
  vec4 t4 = texelFetch(chunkMap, c + ivec2(4, 0), 0);
  vec3 offset = t0.xyz + vec3(t0.w, t1.xy) * vec3(bits(word.x, 0, 13), bits(word.x, 13, 13), bits(word.y, 0, 13)) - eye;
  vec3 p = vec3(dot(right, offset), dot(down, offset), dot(forward, offset));
  if (p.z < NEAR) return;
  vec3 size = exp(vec3(t1.zw, t2.x) + t2.yzw * vec3(bits(word.z, 8, 7), bits(word.z, 15, 7), bits(word.z, 22, 7)));
  vec2 slope = p.xy / p.z, held = clamp(slope, slopes.xz, slopes.yw), mean = focal * slope + principal;
  mat3 q = axes(word);
  vec3 b0 = ((focal.x / p.z * (right - held.x * forward)) * q) * size;
  vec3 b1 = ((focal.y / p.z * (down - held.y * forward)) * q) * size;
  float xx = dot(b0, b0), xy = dot(b0, b1), yy = dot(b1, b1);
  vec3 normal = cross(b0, b1);
  float sharp = dot(normal, normal), determinant = sharp + BLUR * (xx + yy + BLUR);
  if (antialiased) opacity *= sqrt(max(sharp / determinant, 2.5e-5));
  if (!(opacity > CUTOFF)) return;
  xx += BLUR;
  yy += BLUR;
  // Half axes out to where alpha falls to the cutoff.
  float reach2 = 2.0 * log(opacity / CUTOFF);
  vec2 beside = max(max(-mean, mean - viewport), 0.0);
  if (beside.x * beside.x > reach2 * xx || beside.y * beside.y > reach2 * yy) return;
  float major = 0.5 * (xx + yy) + sqrt(0.25 * (xx - yy) * (xx - yy) + xy * xy);
  vec2 along = xx > yy ? vec2(major - yy, xy) : vec2(xy, major - xx);
  float size2 = dot(along, along);
  along = size2 > 0.0 ? along * inversesqrt(size2) : vec2(1.0, 0.0);
  vec3 color = t3.xyz + vec3(t3.w, t4.xy) * vec3(bits(word.w, 0, 8), bits(word.w, 8, 8), bits(word.w, 16, 8));
  if (degree > 0) {
    uint three = texelFetch(labelMap, at, 0).r;
    uint last = bits(word.x, 26, 6) | bits(word.z, 29, 3) << 6 | (word.y >> 31) << 9;
    color += harmonics(normalize(offset), uvec4(bits(three, 0, 10), bits(three, 10, 10), bits(three, 20, 10), last));
  }
  color = clamp(color, 0.0, 60000.0);
  place = floatBitsToUint(vec4(mean, along * sqrt(reach2 * major)));
  look = uvec4(floatBitsToUint(sqrt(reach2 * determinant / major)), packHalf2x16(color.rg),
               packHalf2x16(vec2(color.b, 0.0)), floatBitsToUint(opacity));
}`;

export const ELLIPSE_VERTEX = `${HEAD}
uniform usampler2D orderMap, placeMap, lookMap;
uniform vec2 viewport;
uniform int count;
uniform bool farthestFirst;
out vec2 offset;          // In standard deviations.
flat out vec4 color;

void main() {
  gl_Position = vec4(0.0, 0.0, 2.0, 1.0);
  offset = vec2(0.0);
  color = vec4(0.0);
  int rank = gl_InstanceID * ${QUADS} + (gl_VertexID >> 2);
  if (rank >= count) return;
  if (farthestFirst) rank = count - 1 - rank;
  int which = int(texelFetch(orderMap, ivec2(rank & ${ROW - 1}, rank / ${ROW}), 0).r);
  ivec2 at = ivec2(which & ${ROW - 1}, which / ${ROW});
  uvec4 look = texelFetch(lookMap, at, 0);
  float opacity = uintBitsToFloat(look.w);
  if (opacity == 0.0) return;
  vec4 place = uintBitsToFloat(texelFetch(placeMap, at, 0));
  color = vec4(unpackHalf2x16(look.y), unpackHalf2x16(look.z).x, opacity);
  vec2 corner = vec2(gl_VertexID & 1, (gl_VertexID >> 1) & 1) * 2.0 - 1.0;
  vec2 minor = vec2(-place.w, place.z) * (uintBitsToFloat(look.x) / max(length(place.zw), 1e-20));
  vec2 pixel = place.xy + corner.x * place.zw + corner.y * minor;
  offset = corner * sqrt(2.0 * log(255.0 * opacity));
  gl_Position = vec4(2.0 * pixel.x / viewport.x - 1.0, 1.0 - 2.0 * pixel.y / viewport.y, 0.0, 1.0);
}`;

export const ELLIPSE_FRAGMENT = `${HEAD}
in vec2 offset;
flat in vec4 color;
out vec4 result;
void main() {
  float alpha = min(color.a * exp(-0.5 * dot(offset, offset)), 0.999);
  if (alpha < 1.0 / 255.0) discard;
  result = vec4(color.rgb * alpha, alpha);
}`;

export const RESOLVE_FRAGMENT = `${HEAD}
uniform sampler2D picture;
uniform vec3 background;
uniform vec2 share;        // Of the picture that was drawn to, over the canvas in pixels.
out vec4 result;
void main() {
  vec4 light = textureLod(picture, gl_FragCoord.xy * share, 0.0);
  result = vec4(light.rgb + light.a * background, 1.0);
}`;
