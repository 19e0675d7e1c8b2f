//! Sizes of a block, and where the pixels that its tiles look at lie.

/// Positions of a transformed tile.
pub(super) const POSITIONS: usize = 16;
/// Tiles that are worked on at a time: their transforms should stay in a core's cache.
const TILES_AT_A_TIME: usize = 64;
/// With fewer input channels, the convolution is direct.
const WINOGRAD_CHANNELS: usize = 8;
/// Rows that are added up before they join a sum, for the sake of accuracy.
pub(super) const ROWS_AT_A_TIME: usize = 64;

/// Sizes of a 3 x 3 convolution, whose outputs are computed in tiles of 2 x 2.
#[derive(Clone, Copy, Debug)]
pub(in crate::ops) struct Geometry {
    pub batch: usize,
    pub height: usize,
    pub width: usize,
    pub inputs: usize,
    pub outputs: usize,
    /// Rows and columns of zeros above and left of the images.
    pub padding: [usize; 2],
    /// Rows and columns of tiles.
    pub grid: [usize; 2],
}

impl Geometry {
    /// Of the block: padding 1, and a tile for each window that pooling sees, with nothing for a last odd row or column.
    pub fn pooled([batch, height, width, inputs]: [usize; 4], outputs: usize) -> Self {
        Self {
            batch,
            height,
            width,
            inputs,
            outputs,
            padding: [1, 1],
            grid: [height / 2, width / 2],
        }
    }

    /// Rows of tiles, which is the height of the block's result.
    #[inline]
    pub fn rows(&self) -> usize {
        self.grid[0]
    }

    /// Columns of tiles, which is the width of the block's result.
    #[inline]
    pub fn columns(&self) -> usize {
        self.grid[1]
    }

    #[inline]
    pub(super) fn tiles_per_image(&self) -> usize {
        self.rows() * self.columns()
    }

    pub(super) fn tiles(&self) -> usize {
        self.batch * self.tiles_per_image()
    }

    /// Tiles of as many whole images as are worked on at a time.
    pub(super) fn chunk(&self) -> usize {
        let images = (TILES_AT_A_TIME / self.tiles_per_image()).clamp(1, self.batch);
        images * self.tiles_per_image()
    }

    pub(super) fn winograd(&self) -> bool {
        self.inputs >= WINOGRAD_CHANNELS
    }

    /// Floats in an image.
    pub(super) fn image(&self) -> usize {
        self.height * self.width * self.inputs
    }

    /// The 4 x 4 pixels that tile `tile` of a chunk looks at, each a slice of channels; `images` are the chunk's,
    /// `outside` is what lies beyond the edges.
    #[inline(always)]
    pub(super) fn patch<'a>(
        &self,
        images: &'a [f32],
        tile: usize,
        outside: &'a [f32],
    ) -> [&'a [f32]; POSITIONS] {
        let mut patch = [outside; POSITIONS];
        for (position, pixel) in self.pixels(tile).into_iter().enumerate() {
            if let Some(at) = pixel {
                patch[position] = &images[at..at + self.inputs];
            }
        }
        patch
    }

    /// Where these pixels start in the chunk's images; `None` is beyond an edge.
    #[inline(always)]
    pub(super) fn pixels(&self, tile: usize) -> [Option<usize>; POSITIONS] {
        let (image, tile) = (tile / self.tiles_per_image(), tile % self.tiles_per_image());
        let (row, column) = (2 * (tile / self.columns()), 2 * (tile % self.columns()));
        let [top, left] = self.padding;
        let mut pixels = [None; POSITIONS];
        for i in 0..4 {
            for j in 0..4 {
                // With the zeros around them.
                let (y, x) = (row + i, column + j);
                if (top..top + self.height).contains(&y) && (left..left + self.width).contains(&x) {
                    let pixel = (image * self.height + y - top) * self.width + x - left;
                    pixels[4 * i + j] = Some(pixel * self.inputs);
                }
            }
        }
        pixels
    }
}
