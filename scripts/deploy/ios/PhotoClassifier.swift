// Not compiled here. Classifies photos with a bundle's model.tflite in MediaPipe.
//
// Podfile: pod "MediaPipeTasksVision"; model.tflite in the app's bundle. The class names are in the
// file. Export a gray model with --rgb.

import MediaPipeTasksVision
import UIKit

final class PhotoClassifier {
  private let classifier: ImageClassifier
  private let size: Double
  private let cropFraction: Double

  /// `size` and `cropFraction` are `image_size` and `resize.crop_fraction` of bundle.json.
  init(size: Int, cropFraction: Double) throws {
    let options = ImageClassifierOptions()
    options.baseOptions.modelAssetPath = Bundle.main.path(forResource: "model", ofType: "tflite")!
    options.maxResults = 5
    classifier = try ImageClassifier(options: options)
    self.size = Double(size)
    self.cropFraction = cropFraction
  }

  /// Returns the five most probable classes of an upright photo, the best first.
  func classify(_ photo: UIImage) throws -> [(name: String, probability: Float)] {
    let pixels = CGSize(
      width: photo.size.width * photo.scale, height: photo.size.height * photo.scale)
    let result = try classifier.classify(
      image: MPImage(uiImage: photo), regionOfInterest: region(pixels))
    // the second head is the embedding
    let probabilities = result.classificationResult.classifications[0]
    return probabilities.categories.map { ($0.categoryName ?? "", $0.score) }
  }

  /// The part of a photo that the bundle's own resize keeps, in shares of its sides.
  private func region(_ pixels: CGSize) -> CGRect {
    let (width, height) = (Double(pixels.width).rounded(), Double(pixels.height).rounded())
    let shorter = (size / cropFraction).rounded(.down)  // the shorter side after resizing
    let wide = (shorter * width / min(width, height)).rounded(.down)
    let high = (shorter * height / min(width, height)).rounded(.down)
    let left = ((wide - size) / 2).rounded(.toNearestOrEven)
    let top = ((high - size) / 2).rounded(.toNearestOrEven)
    return CGRect(x: left / wide, y: top / high, width: size / wide, height: size / high)
  }
}
